"""Documents in PDF, by pypdf: the text of their pages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

from r3mem.errors import InputError, R3MemError
from r3mem.errors.extras import importing
from r3mem.errors.no_text import HEAD, is_pdf
from r3mem.store.readers.base import Document, Reader

#: What stands between pages.
BETWEEN = "\n\n"


class Pdf(Reader):
    """One text: the pages in order, an empty line between them. Pictures of text are not read."""

    def documents(self, file: BinaryIO, name: str) -> Iterator[Document]:
        """See :class:`Reader`.

        Raises:
            ConfigError: pypdf is not installed.
        """
        with importing("shell", "reading a PDF"):
            import pypdf

            # What it makes of odd files is told below, by the text that is missing or by an error.
            logging.getLogger("pypdf").setLevel(logging.CRITICAL)
        pdf = _told(name, lambda: pypdf.PdfReader(file, strict=False))
        if _told(name, lambda: pdf.is_encrypted and not pdf.decrypt("")):
            raise InputError(f"{name} is protected by a password: save a copy without one")
        count = _told(name, lambda: len(pdf.pages))
        yield Document(_pages(pdf, count, name), metadata={"pages": count})


def looks_like_pdf(head: bytes) -> bool:
    """Whether a file is a PDF, by its first bytes.

    Args:
        head: At least a kilobyte where it has as many.
    """
    return is_pdf(head[:HEAD].lstrip())


def _pages(pdf: Any, count: int, name: str) -> Iterator[str]:
    written = False
    for number in range(count):
        text: str = _told(f"{name}, page {number + 1}", lambda number=number: pdf.pages[number].extract_text())
        # Halves of surrogate pairs come from broken tables of characters; no file in UTF-8 can hold them.
        text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
        if not text.strip():
            continue
        yield (BETWEEN if written else "") + text.strip("\n")
        written = True
    if not written:
        raise InputError(f"{name} holds no text, only pictures or nothing: recognise its text (OCR) first")


def _told(name: str, work: Any) -> Any:
    try:
        return work()
    except R3MemError:
        raise
    except Exception as error:  # Damaged files raise whatever the reader stumbled over, RecursionError too.
        why = f"{type(error).__name__}: {error}"[:200]
        raise InputError(f"{name} cannot be read as a PDF ({why}): open it and save it again") from error
