"""What the readers of documents, questions and conversations share: looking for paths, and counting what is amiss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from datamodules.record_text import Found, follow, keys_of, strings
from datamodules.sources import Record, Source
from r3mem.errors import InputError
from r3mem.hierarchy import Mention, Part, Question

ReadT = TypeVar("ReadT")


@dataclass(frozen=True)
class MappedDocument:
    """A document as text, before it has tokens; the fields are those of :class:`r3mem.hierarchy.Document`."""

    text: str
    title: str = ""
    parts: tuple[Part, ...] = ()
    mentions: tuple[Mention, ...] | None = None
    questions: tuple[Question, ...] = ()
    name: str = ""
    origin: str = ""


class RecordReader(ABC, Generic[ReadT]):
    """Reads the records of one source, one after the other, by a field mapping.

    A path that leads nowhere in all of the first record is a mistake in the mapping and stops the reading. Later
    records may lack what they like: it is counted, and one without text is left out.

    Attributes:
        left_out: How often what was amiss, in words.
    """

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._sought: dict[tuple[str, str], str | None] | None = {}

    def __call__(self, record: Record) -> ReadT | None:
        """What a record holds; None if it is to be left out.

        Args:
            record: The record.

        Raises:
            InputError: If a path of the mapping leads nowhere in the first record.
        """
        value = record.value if record.structured else {"text": record.value}
        read = self._read(value, record.origin)
        if self._sought is not None:
            for (field, path), keys in self._sought.items():
                if keys is not None:
                    raise InputError(
                        f"{record.origin}: {field}: {path!r} leads nowhere; where it was looked for, the keys are: "
                        f"{keys}. Correct fields.{field}, or set it to null if the data set has none"
                    )
            self._sought = None
        return read

    def read(self, source: Source) -> Iterator[ReadT]:
        """What the records of a source hold, one at a time, without those that are left out."""
        return (read for record in source.records() if (read := self(record)) is not None)

    @abstractmethod
    def _read(self, record: Any, origin: str) -> ReadT | None:
        """What a record holds; None if it is to be left out, which is counted here."""

    def _found(self, record: Any, field: str, path: str | None) -> list[Found]:
        """What a path of the mapping leads to; nothing where the mapping has none."""
        if path is None:
            return []
        found = list(follow(record, path))
        if not found:
            self._missed(field, path, record)
        elif self._sought is not None:
            self._sought[field, path] = None
        return found

    def _missed(self, field: str, path: str, record: Any) -> None:
        """Note that a path led nowhere; it is forgiven if it leads somewhere else in the same record."""
        if self._sought is not None:
            self._sought.setdefault((field, path), keys_of(record))

    def _items(self, record: Any, field: str, path: str | None) -> list[Any]:
        """What a path leads to, the elements where it is a list."""
        items: list[Any] = []
        for each in self._found(record, field, path):
            items.extend(each.value if isinstance(each.value, list | tuple) else [each.value])
        return items

    def _text(self, record: Any, field: str, path: str | Sequence[str] | None, separator: str) -> str:
        """All strings below a path, or several one after the other, joined; of several those of blanks are left out."""
        paths = [path] if isinstance(path, str) or path is None else path
        found = [text for one in paths for each in self._found(record, field, one) for text in strings(each.value)]
        return found[0] if len(found) == 1 else separator.join(text for text in found if text.strip())

    def _scalar(self, record: Any, field: str, path: str | None) -> str:
        """The first string or number below a path, as text; empty where there is none."""
        for each in self._found(record, field, path):
            for value in _scalars(each.value):
                return value
        return ""


def _scalars(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _scalars(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _scalars(item)


def scalars(value: Any) -> list[str]:
    """All strings and numbers below a value, as text, in order."""
    return list(_scalars(value))
