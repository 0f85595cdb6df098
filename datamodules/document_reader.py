"""Records that are one document each: text, parts, entities."""

from __future__ import annotations

import re
from typing import Any

from datamodules.assembled_text import AssembledText
from datamodules.fields import DocumentFields
from datamodules.record_reader import MappedDocument, RecordReader
from datamodules.record_text import RecordText
from r3mem.hierarchy import Mention, Part

BLANK_LINE = "\n\n"


class DocumentReader(RecordReader[MappedDocument]):
    """Reads documents; parts and mentions are counted in the characters of the text that comes out.

    Args:
        fields: Where things are in a record.
    """

    def __init__(self, fields: DocumentFields) -> None:
        super().__init__()
        self.fields = fields
        self._plain = RecordText(None, fields.separator)

    def _read(self, record: Any, origin: str) -> MappedDocument | None:
        fields = self.fields
        whole = AssembledText()
        if fields.text is not None:
            lead = self._text(record, "text", fields.text, fields.separator)
        else:
            lead = self._plain(record, origin) if fields.parts is None else ""
        if lead:
            whole.add(lead)
        parts = [part for item in self._items(record, "parts", fields.parts) if (part := self._part(whole, item))]
        text = str(whole)
        document = MappedDocument(
            text=text,
            title=self._scalar(record, "title", fields.title),
            parts=tuple(parts),
            mentions=self._mentions(record, text),
            name=self._scalar(record, "name", fields.name),
            origin=origin,
        )
        if not text:
            self.left_out["records without text"] += 1
            return None
        return document

    def _part(self, whole: AssembledText, item: Any) -> Part | None:
        title = self._scalar(item, "part_title", self.fields.part_title).strip()
        text = self._text(item, "part_text", self.fields.part_text, self.fields.separator)
        places = [whole.add(piece, BLANK_LINE) for piece in (title, text) if piece]
        return Part(places[0][0], places[-1][1], 0, title) if places else None

    def _mentions(self, record: Any, text: str) -> tuple[Mention, ...] | None:
        if self.fields.entities is not None:
            return self._looked_up(record, text)
        if self.fields.mentions is None:
            return None
        mentions = []
        for item in self._items(record, "mentions", self.fields.mentions):
            start, end = (
                self._scalar(item, name, path)
                for name, path in (
                    ("mention_start", self.fields.mention_start),
                    ("mention_end", self.fields.mention_end),
                )
            )
            if not (start.isdigit() and end.isdigit() and 0 <= int(start) < int(end) <= len(text)):
                self.left_out["mentions outside their text"] += 1
                continue
            mentions.append(Mention(int(start), int(end), self._scalar(item, "mention_kind", self.fields.mention_kind)))
        return _in_order(mentions)

    def _looked_up(self, record: Any, text: str) -> tuple[Mention, ...]:
        """Every place where a name stands as whole words; case is ignored only where the exact form is not there."""
        mentions = []
        for name in dict.fromkeys(self._items(record, "entities", self.fields.entities)):
            pattern = rf"(?<!\w){re.escape(name)}(?!\w)" if isinstance(name, str) and name.strip() else "(?!)"
            places = list(re.finditer(pattern, text)) or list(re.finditer(pattern, text, re.IGNORECASE))
            if not places:
                self.left_out["entities that are not in their text"] += 1
            mentions += [Mention(place.start(), place.end()) for place in places]
        return _in_order(mentions)


def _in_order(mentions: list[Mention]) -> tuple[Mention, ...]:
    return tuple(sorted(mentions, key=lambda mention: (mention.start, -mention.end)))
