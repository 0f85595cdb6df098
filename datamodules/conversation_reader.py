"""Records that are one conversation each: turns with speakers, sessions with dates, questions with evidence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from datamodules.assembled_text import AssembledText
from datamodules.document_reader import BLANK_LINE
from datamodules.fields import ConversationFields
from datamodules.record_reader import MappedDocument, RecordReader, scalars
from datamodules.record_text import Found
from r3mem.hierarchy import Part, Question

SESSION, TURN = 0, 1


class _Turn(NamedTuple):
    speaker: str
    text: str
    name: str


class ConversationReader(RecordReader[MappedDocument]):
    """Reads conversations as documents::

        8 May, 2023               \\
                                   |  part of depth 0: the session, its date as title
        Caroline: Hey Mel!  - 1    |
                                   |  parts of depth 1: the turns, their speakers as titles
        Melanie: Hey!       - 1   /

    Args:
        fields: Where things are in a record.
    """

    def __init__(self, fields: ConversationFields) -> None:
        super().__init__()
        self.fields = fields

    def _read(self, record: Any, origin: str) -> MappedDocument | None:
        whole = AssembledText()
        parts: list[Part] = []
        turns: list[tuple[int, int]] = []
        by_name: dict[str, tuple[int, int]] = {}
        for found in self._sessions(record):
            date = self._date(record, found).strip()
            said = list(self._turns(found.value))
            if not said:
                continue
            places = [whole.add(date, BLANK_LINE)] if date else []
            session = len(parts)
            for i, turn in enumerate(said):
                line = f"{turn.speaker}: {turn.text}" if turn.speaker else turn.text
                places.append(whole.add(line, self.fields.separator if i or date else BLANK_LINE))
                turns.append(places[-1])
                if turn.name:
                    by_name[turn.name] = places[-1]
                if line:
                    parts.append(Part(*places[-1], TURN, turn.speaker))
            if self.fields.sessions is not None:
                parts.insert(session, Part(places[0][0], places[-1][1], SESSION, date))
        # Looked for even where nothing was said, so that a wrong path in the first record is found.
        questions = tuple(self._questions(record, turns, by_name))
        title, name = (self._scalar(record, key, getattr(self.fields, key)) for key in ("title", "name"))
        if not turns:
            self.left_out["records without turns"] += 1
            return None
        return MappedDocument(str(whole), title, tuple(parts), None, questions, name, origin)

    def _sessions(self, record: Any) -> Iterator[Found]:
        if self.fields.sessions is None:
            yield Found(record)
            return
        for found in self._found(record, "sessions", self.fields.sessions):
            if self.fields.turns is not None and isinstance(found.value, list | tuple):
                yield from (Found(item, found.stood_for) for item in found.value)
            else:
                yield found

    def _date(self, record: Any, session: Found) -> str:
        path = self.fields.date
        if path == "*":
            return session.stood_for[0] if session.stood_for else ""
        if path is None or "#" not in path:
            return self._scalar(session.value, "date", path)
        for number in session.stood_for:
            path = path.replace("#", number, 1)
        return self._scalar(record, "date", path)

    def _turns(self, session: Any) -> Iterator[_Turn]:
        fields = self.fields
        entries = (
            session if fields.turns is None else [each.value for each in self._found(session, "turns", fields.turns)]
        )
        for i, entry in enumerate(_flat(entries)):
            if isinstance(fields.speakers, dict):
                for field, speaker in fields.speakers.items():
                    yield from self._turn(speaker, self._text(entry, f"speakers.{field}", field, " "), "")
            else:
                speaker = fields.speakers[i % len(fields.speakers)] if fields.speakers else ""
                speaker = speaker or self._scalar(entry, "speaker", fields.speaker)
                yield from self._turn(speaker, self._said(entry), self._scalar(entry, "turn_id", fields.turn_id))

    def _said(self, entry: Any) -> str:
        if self.fields.text is not None:
            return self._text(entry, "text", self.fields.text, " ")
        if not isinstance(entry, str):
            self._missed("text", "a turn that is a string", entry)
            return ""
        return entry

    def _turn(self, speaker: str, text: str, name: str) -> Iterator[_Turn]:
        # Ranges of turns count every turn, so one without words keeps its place.
        if text.strip() or self.fields.evidence_ranges is not None:
            yield _Turn(speaker, text, name)
        else:
            self.left_out["turns without words"] += 1

    def _questions(
        self, record: Any, turns: list[tuple[int, int]], by_name: Mapping[str, tuple[int, int]]
    ) -> Iterator[Question]:
        fields = self.fields
        for item in self._items(record, "questions", fields.questions):
            if isinstance(item, str):
                yield Question(item)
                continue
            text = self._scalar(item, "question", fields.question)
            answer = self._scalar(item, "answer", fields.answer)
            spans = [*self._named(item, by_name), *self._ranges(item, turns)]
            if not text.strip():
                self.left_out["questions without words"] += 1
                continue
            if not spans and (fields.evidence or fields.evidence_ranges):
                self.left_out["questions without evidence (kept, but no node answers them)"] += 1
            yield Question(text, answer, tuple(spans))

    def _named(self, item: Any, by_name: Mapping[str, tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for entry in scalars([each.value for each in self._found(item, "evidence", self.fields.evidence)]):
            for name in [entry] if entry in by_name else re.split(r"[\s,;]+", entry.strip()):
                if name in by_name:
                    yield by_name[name]
                else:
                    self.left_out["evidence that points nowhere"] += 1

    def _ranges(self, item: Any, turns: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for pair in self._items(item, "evidence_ranges", self.fields.evidence_ranges):
            numbers = scalars(pair)
            if len(numbers) == 2 and all(n.isdigit() for n in numbers):
                first, last = int(numbers[0]), int(numbers[1])
                if first <= last < len(turns):
                    yield turns[first][0], turns[last][1]
                    continue
            self.left_out["evidence that points nowhere"] += 1


def _flat(entries: Any) -> Iterator[Any]:
    if isinstance(entries, list | tuple):
        for entry in entries:
            yield from _flat(entry)
    else:
        yield entries
