"""Which reader a file gets: by what was asked for, by its first bytes, by the end of its name."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

from r3mem.errors import InputError
from r3mem.store.readers.base import Document, Reader
from r3mem.store.readers.chat import Chat
from r3mem.store.readers.html import Html
from r3mem.store.readers.pdf import Pdf, looks_like_pdf
from r3mem.store.readers.text import Text

#: By name, with the ends of file names that each takes; all others are text.
READERS: dict[str, type[Reader]] = {"text": Text, "html": Html, "pdf": Pdf, "chat": Chat}
ENDS = {
    ".html": "html", ".htm": "html", ".xhtml": "html", ".pdf": "pdf", ".jsonl": "chat", ".ndjson": "chat",
}  # fmt: skip


def reader_of(name: str, head: bytes, kind: str | None = None, characters: int = 4_000) -> Reader:
    """The reader of a file.

    Args:
        name: Its name.
        head: Its first bytes; empty if they are not known.
        kind: A key of `READERS`; None to tell it by name and first bytes.
        characters: As of :class:`Chat`.

    Raises:
        InputError: There is no such kind.
    """
    if kind is not None and kind not in READERS:
        raise InputError(f"kind {kind!r:.40}: give one of {', '.join(READERS)}")
    chosen = kind or ("pdf" if looks_like_pdf(head) else ENDS.get(Path(name).suffix.lower(), "text"))
    return Chat(characters) if chosen == "chat" else READERS[chosen]()


def read(given: Path | BinaryIO, name: str, kind: str | None = None, characters: int = 4_000) -> Iterator[Document]:
    """What a file holds.

    Args:
        given: Its path, or the file, open for reading.
        name: What it is called in errors, and by whose end its kind is told.
        kind: As of :func:`reader_of`.
        characters: As of :class:`Chat`.

    Raises:
        InputError: It cannot be read, or is not of its kind.
    """
    try:
        file = given.open("rb") if isinstance(given, Path) else given
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror or error}): check its name and rights") from error
    try:
        peek = getattr(file, "peek", None)
        try:
            head = cast(BufferedReader, file).peek(1024) if peek else b""
        except OSError as error:
            raise InputError(f"{name} cannot be read ({error.strerror or error}): check its name and rights") from error
        yield from reader_of(name, head, kind, characters).documents(file, name)
    finally:
        if isinstance(given, Path):
            file.close()
