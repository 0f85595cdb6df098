"""Where paragraphs end, and a stream of text cut there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting

# `\r\n` is one line end; the last alternative must not match its first half, or every such line end were a blank line.
_LINE_END = r"(?:\r\n|\n|\r(?!\n))"
PARAGRAPH_END = re.compile(rf"{_LINE_END}(?:[^\S\r\n]*{_LINE_END})+")
"""The end of a line with the blank lines after it; the next paragraph begins where the match ends."""


def pieces_at_paragraph_ends(pieces: Iterable[str], characters: int) -> Iterator[str]:
    """Text in other pieces: each at most so long, ended at a paragraph's, a line's or a word's end where there is one.

    Args:
        pieces: The text in any pieces.
        characters: Most characters of a piece.

    Raises:
        ConfigError: ``characters`` is not positive.
    """
    if whole_setting(characters, "characters") < 1:
        raise ConfigError(f"characters {characters} is not possible; a piece of text holds at least one")
    held, length = [], 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length > characters:
            text, at = "".join(held), 0
            while len(text) - at > characters:
                end = _end(text, at, at + characters)
                yield text[at:end]
                at = end
            held, length = [text[at:]], len(text) - at
    if length:
        yield "".join(held)


def _end(text: str, start: int, most: int) -> int:
    """The best place after ``start``, at or before ``most``, for a cut; ``text`` goes on behind ``most``."""
    # Read one character on: a line end that is the window's last may be half of `\r\n`, or stand before a blank line.
    found = [match.end() for match in PARAGRAPH_END.finditer(text, start, most) if match.end() < most]
    if found:
        return found[-1]
    line = max(text.rfind("\n", start, most), text.rfind("\r", start, most - 1))
    if line > start:
        return line + 1
    # In front of the white space, which most tokenizers count to the word after it.
    space = max(text.rfind(" ", start, most), text.rfind("\t", start, most))
    if space > start:
        return space
    return most - 1 if text[most - 1 : most + 1] == "\r\n" and most - 1 > start else most
