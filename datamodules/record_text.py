"""How a structured record (a line of JSON, a row of a table) becomes the text of one document.

The rule, in this order:

1. ``text_field`` given: each dotted path is followed through the record. Lists on the way are walked element by
   element, ``*`` stands for every key and ``a|b`` for either, so ``chapters.head|paragraphs`` takes the headings and
   paragraphs of a book and ``conversation.*.speaker|text`` who said what in every part of a chat. All strings found
   below the end of the path are taken, in the record's order; several paths are taken one after the other.
2. Otherwise the first of ``text``, ``content``, ``contents``, ``body``, ``article``, ``document`` that is a string.
3. Otherwise all strings of the record, in order, ids and titles included.

Strings are joined by ``separator`` (a blank line). Numbers, booleans and nulls are not text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r3mem.errors import InputError

PLAIN_FIELDS = ("text", "content", "contents", "body", "article", "document")


class RecordText:
    """Turns records into texts by the rule above.

    Args:
        text_field: Dotted path, several of them, or None for the rule without a path.
        separator: What stands between two strings of one record.
    """

    def __init__(self, text_field: str | Sequence[str] | None = None, separator: str = "\n\n") -> None:
        fields = [text_field] if isinstance(text_field, str) else list(text_field or ())
        self.fields = {field: field.split(".") for field in fields}
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
            return self.separator.join(_strings(record))
        found: list[Any] = []
        for field, parts in self.fields.items():
            values = list(_follow(record, parts))
            if values:
                self._never_found.discard(field)
            found.extend(values)
        if not found:
            keys = ", ".join(record) if isinstance(record, Mapping) else f"none (it is a {type(record).__name__})"
            raise InputError(
                f"{where} has no field {' or '.join(self.fields)}; its fields are: {keys}. Set text_field to one of "
                "them (a dotted path for a nested one), or leave it out to take the text field or all strings"
            )
        return self.separator.join(text for value in found for text in _strings(value))

    def check_all_found(self, where: str) -> None:
        """After the last record: refuse a field that no record had, since its text would be missing without a word."""
        if self._never_found:
            raise InputError(
                f"no record of {where} has the field {', '.join(sorted(self._never_found))}: correct it or take it "
                "out of text_field"
            )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _follow(value: Any, parts: Sequence[str]) -> Iterator[Any]:
    if not parts:
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _follow(item, parts)
    elif isinstance(value, Mapping):
        wanted = parts[0].split("|")
        for key, item in value.items():
            if parts[0] == "*" or key in wanted:
                yield from _follow(item, parts[1:])
