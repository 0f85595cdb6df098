"""What a file is that holds no text in UTF-8, as far as its first bytes tell, and what to do with it."""

from __future__ import annotations

import re
from pathlib import Path

#: So many first bytes are enough.
HEAD = 1024
PDF = re.compile(rb"%PDF-\d")
# Byte-order marks, the longer ones first: one begins with another.
ENCODINGS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
KINDS = {
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"GIF8": "a picture (GIF)",
    b"II*\x00": "a picture (TIFF)",
    b"MM\x00*": "a picture (TIFF)",
    b"RIFF": "a picture, a sound or a film (RIFF)",
    b"PK\x03\x04": "an archive (ZIP, as .docx, .xlsx, .odt and .epub are)",
    b"\xd0\xcf\x11\xe0": "a document of Microsoft Office (.doc, .xls, .ppt)",
    b"\x1f\x8b": "compressed (gzip)",
    b"\xfd7zXZ": "compressed (xz)",
    b"BZh": "compressed (bzip2)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd)",
    b"PAR1": "a table (Parquet)",
    b"SQLite format 3": "a database (SQLite)",
    b"\x7fELF": "a program",
}


def is_pdf(head: bytes) -> bool:
    """Whether a file is a PDF; one may be UTF-8 throughout, and is no text all the same.

    Args:
        head: Its first bytes.
    """
    return PDF.match(head) is not None


def refusal(path: str | Path, head: bytes, byte: int = 0, offset: int = 0, where: str = "") -> str:
    """Says that a file is no text in UTF-8, what it is, and what to do.

    Args:
        path: The file.
        head: Its first bytes, `HEAD` of them where it has as many.
        byte: The first one that is not UTF-8.
        offset: Where that one stands.
        where: What the offset counts in, as it follows a number.
    """
    kind = "a PDF" if is_pdf(head) else next((name for start, name in KINDS.items() if head.startswith(start)), None)
    encoding = next((name for mark, name in ENCODINGS.items() if head.startswith(mark)), None)
    if kind is None and encoding is None and 0 in head:
        kind = "binary"
    if kind is not None:
        return f"{path} is {kind}, not a text: take the text out of it first, and save that in UTF-8"
    return (
        f"{path}: byte 0x{byte:02x} at byte offset {offset}{where} is not UTF-8; convert the file first, for example: "
        f"iconv -f {encoding or 'ISO-8859-1'} -t UTF-8"
    )
