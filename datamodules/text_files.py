"""Strict, streamed reading of text files, plain or compressed (``.gz``, ``.xz``)."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from r3mem.errors import InputError
from r3mem.errors.no_text import HEAD, is_pdf, refusal

COMPRESSIONS = (".gz", ".xz")


def content_suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case: ``.jsonl`` of ``books.jsonl.xz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file as they are, with their line ends and a byte-order mark, one at a time.

    Args:
        path: A text file, or one compressed by gzip or xz.

    Raises:
        InputError: It is a picture, a PDF or otherwise no text, a byte is not UTF-8 (with its offset), or the
            compressed data is damaged.
    """
    compressed = path.suffix.lower() in COMPRESSIONS
    offset = 0
    try:
        with _open_bytes(path) as file:
            for line in file:
                if offset == 0 and is_pdf(line):
                    raise InputError(refusal(path, line[:HEAD]))
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    where = " of the unpacked text" if compressed else ""
                    with _open_bytes(path) as again:
                        head = again.read(HEAD)
                    wrong = refusal(path, head, line[error.start], offset + error.start, where)
                    raise InputError(wrong) from error
                offset += len(line)
                yield text
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path}: the compressed data is damaged or cut short after {offset} unpacked bytes ({error}); "
            "copy or download the file again"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}): check that it exists and may be read"
        ) from error


def _open_bytes(path: Path) -> BinaryIO:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    return path.open("rb")
