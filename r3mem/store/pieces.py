"""Long texts in pieces of bounded size: cut where a paragraph, a line or a word ends, and joined they are the text."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from pathlib import Path

from r3mem.errors import InputError
from r3mem.errors.no_text import HEAD, is_pdf, refusal

#: Characters of an entry at most.
MOST_CHARACTERS = 100_000
READ_BYTES = 1 << 20
#: Where a piece may end, best first.
ENDS = ("\n\n", "\n", ". ", " ")


def check_characters(characters: int) -> int:
    """Refuse a size of pieces that is not possible.

    Raises:
        InputError: No whole number from 16 to 100,000.
    """
    if isinstance(characters, bool) or not isinstance(characters, int) or not 16 <= characters <= MOST_CHARACTERS:
        raise InputError(f"characters {characters!r:.20}: give a whole number from 16 to {MOST_CHARACTERS:,}")
    return characters


def text_pieces(path: Path) -> Iterator[str]:
    """The text of a file, piece by piece; line ends and a byte-order mark are kept.

    Args:
        path: The file.

    Raises:
        InputError: It cannot be read, is a PDF or a picture, or a byte is not UTF-8; the message has its offset.
    """
    decoder, offset, head = codecs.getincrementaldecoder("utf-8")(), 0, b""
    try:
        with path.open("rb") as file:
            while True:
                data = file.read(READ_BYTES)
                if not offset:
                    head = data[:HEAD]
                    if is_pdf(head):
                        raise InputError(refusal(path, head))
                try:
                    text = decoder.decode(data, final=not data)
                except UnicodeDecodeError as error:
                    # The decoder held back the first bytes of a character, which count.
                    at = offset - (len(error.object) - len(data)) + error.start
                    raise InputError(refusal(path, head, error.object[error.start], at)) from error
                if "\0" in text:
                    raise InputError(f"{path} holds zero bytes and is no text: convert it to text in UTF-8 first")
                offset += len(data)
                if text:
                    yield text
                if not data:
                    return
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check that it exists") from error


def cut(pieces: Iterable[str], size: int) -> Iterator[str]:
    """Pieces of any size as pieces of at most so many characters; all together they are the same text.

    Args:
        pieces: The text in order.
        size: Characters at most.

    Raises:
        InputError: A piece is no string.
    """
    if isinstance(pieces, str):
        pieces = [pieces]
    held = ""
    for piece in pieces:
        if not isinstance(piece, str):
            raise InputError(f"a piece of a text is a str, not {type(piece).__name__}: decode it first")
        held += piece
        at = 0
        # What follows may hold a better place to end at, so the last piece waits.
        while len(held) - at > size:
            end = _end(held, at, at + size)
            yield held[at:end]
            at = end
        held = held[at:]
    if held:
        yield held


def _end(text: str, start: int, most: int) -> int:
    least = start + (most - start) // 2
    for mark in ENDS:
        found = text.rfind(mark, least, most)
        if found >= 0:
            return found + len(mark)
    return most
