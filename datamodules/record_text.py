"""How a structured record (a line of JSON, a row of a table) becomes the text of one document.

The rule, in this order:

1. ``text_field`` given: each dotted path is followed through the record. Lists on the way are walked element by
   element, ``*`` stands for every key and ``a|b`` for either, so ``chapters.head|paragraphs`` takes the headings and
   paragraphs of a book and ``conversation.*.speaker|text`` who said what in every part of a chat. ``#`` stands for a
   number inside a key (``session_#``), and a number for that element of a list (``0`` is the first). All strings
   found below the end of the path are taken, in the record's order; several paths are taken one after the other.
2. Otherwise the first of ``text``, ``content``, ``contents``, ``body``, ``article``, ``document`` that is a string.
3. Otherwise all strings of the record, in order, ids and titles included.

Strings are joined by ``separator`` (a blank line). Numbers, booleans and nulls are not text. Of a part of a message's
content (``{"type": "text", "text": "Yes."}``) the text alone is, and nothing of a part that is a picture or a sound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from r3mem.errors import InputError

# Parts of a message's content, as chat logs have them.
TEXT_PARTS = ("text", "input_text", "output_text")
OTHER_PARTS = (
    "image", "image_url", "input_image", "audio", "input_audio", "video", "video_url", "file", "input_file", "document",
)  # fmt: skip
OTHER_KEYS = ("source", "image_url", "file_id", "file_data")
PLAIN_FIELDS = ("text", "content", "contents", "body", "article", "document")


class Found(NamedTuple):
    """What a path leads to.

    Attributes:
        value: What stands there.
        stood_for: The key, or the part of it, that each ``*`` or ``#`` of the path stood for.
    """

    value: Any
    stood_for: tuple[str, ...] = ()


class RecordText:
    """Turns records into texts by the rule above.

    Args:
        text_field: Dotted path, several of them, or None for the rule without a path.
        separator: What stands between two strings of one record.
    """

    def __init__(self, text_field: str | Sequence[str] | None = None, separator: str = "\n\n") -> None:
        self.fields = [text_field] if isinstance(text_field, str) else list(text_field or ())
        self.separator = separator
        self._never_found = set(self.fields)

    def __call__(self, record: Any, where: str) -> str:
        """The text of one record.

        Args:
            record: What ``json.loads`` or a table gives.
            where: Name of the record for error messages, for example ``books.jsonl:3``.

        Raises:
            InputError: If none of the given fields is in the record.
        """
        if not self.fields:
            if isinstance(record, Mapping):
                for field in PLAIN_FIELDS:
                    if isinstance(record.get(field), str):
                        return str(record[field])
            return self.separator.join(strings(record))
        found: list[Any] = []
        for field in self.fields:
            values = [each.value for each in follow(record, field)]
            if values:
                self._never_found.discard(field)
            found.extend(values)
        if not found:
            raise InputError(
                f"{where} has no field {' or '.join(self.fields)}; its fields are: {keys_of(record)}. Set text_field "
                "to one of them (a dotted path for a nested one), or leave it out to take the text field or all strings"
            )
        return self.separator.join(text for value in found for text in strings(value))

    def check_all_found(self, where: str) -> None:
        """After the last record: refuse a field that no record had, since its text would be missing without a word."""
        if self._never_found:
            raise InputError(
                f"no record of {where} has the field {', '.join(sorted(self._never_found))}: correct it or take it "
                "out of text_field"
            )


def strings(value: Any) -> Iterator[str]:
    """All strings below a value, in order, empty ones left out."""
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, Mapping):
        kind = value.get("type")
        if kind in TEXT_PARTS and isinstance(value.get("text"), str):
            yield from strings(value["text"])
        elif not (kind in OTHER_PARTS and {kind, *OTHER_KEYS} & set(value)):
            for item in value.values():
                yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def follow(record: Any, path: str) -> Iterator[Found]:
    """Everything that a dotted path leads to, by the rule at the head of this file.

    Args:
        record: Where the path begins.
        path: The path; empty for the record itself.
    """
    yield from _follow(record, path.split(".") if path else [], ())


def keys_of(record: Any) -> str:
    """The keys of a record, for an error message."""
    return ", ".join(map(str, record)) if isinstance(record, Mapping) else f"none (it is a {type(record).__name__})"


def _follow(value: Any, parts: Sequence[str], stood_for: tuple[str, ...]) -> Iterator[Found]:
    if not parts:
        yield Found(value, stood_for)
    elif isinstance(value, list | tuple):
        if parts[0].isdigit():
            for item in value[int(parts[0]) : int(parts[0]) + 1]:
                yield from _follow(item, parts[1:], stood_for)
        else:
            for item in value:
                yield from _follow(item, parts, stood_for)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            match = _match(parts[0], str(key))
            if match is not None:
                yield from _follow(item, parts[1:], stood_for + match)


def _match(part: str, key: str) -> tuple[str, ...] | None:
    """What the wildcards of one step stand for in a key, or None where the key is another one."""
    for option in part.split("|"):
        if option == key:
            return ()
        if option == "*":
            return (key,)
        if "#" in option:
            found = re.fullmatch(r"(\d+)".join(map(re.escape, option.split("#"))), key)
            if found:
                return found.groups()
    return None
