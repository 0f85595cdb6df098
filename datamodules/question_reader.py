"""Records that are one question each, with paragraphs of which some support the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datamodules.assembled_text import AssembledText
from datamodules.document_reader import BLANK_LINE
from datamodules.fields import QuestionFields
from datamodules.record_reader import MappedDocument, RecordReader
from r3mem.hierarchy import Part, Question


@dataclass(frozen=True)
class Paragraph:
    """A context paragraph.

    Attributes:
        text: Its text, the title as first line.
        title: Its title; may be empty.
        supporting: Whether the answer needs it.
    """

    text: str
    title: str = ""
    supporting: bool = False


@dataclass(frozen=True)
class MappedQuestion:
    """A question with its paragraphs.

    Attributes:
        question: The question.
        answer: The gold answer; may be empty.
        paragraphs: The context, in order.
        name: The question's id.
        origin: Where the record stood.
    """

    question: str
    answer: str
    paragraphs: tuple[Paragraph, ...]
    name: str = ""
    origin: str = ""

    def document(self) -> MappedDocument:
        """The paragraphs as one document with a part for each; the question's spans are the supporting ones."""
        whole = AssembledText()
        places = [whole.add(paragraph.text, BLANK_LINE) for paragraph in self.paragraphs]
        parts = [Part(*at, 0, p.title) for at, p in zip(places, self.paragraphs, strict=True)]
        spans = tuple(at for at, p in zip(places, self.paragraphs, strict=True) if p.supporting)
        question = Question(self.question, self.answer, spans)
        return MappedDocument(str(whole), parts=tuple(parts), questions=(question,), name=self.name, origin=self.origin)


class QuestionReader(RecordReader[MappedQuestion]):
    """Reads questions.

    Args:
        fields: Where things are in a record.
    """

    def __init__(self, fields: QuestionFields) -> None:
        super().__init__()
        self.fields = fields

    def _read(self, record: Any, origin: str) -> MappedQuestion | None:
        fields = self.fields
        named = self._items(record, "supporting_titles", fields.supporting_titles)
        titles = {str(each[0]) if isinstance(each, list | tuple) and each else str(each) for each in named}
        paragraphs = []
        for item in self._items(record, "paragraphs", fields.paragraphs):
            title = self._scalar(item, "paragraph_title", fields.paragraph_title)
            text = self._text(item, "paragraph_text", fields.paragraph_text, fields.separator)
            marks = [each.value for each in self._found(item, "supporting", fields.supporting)]
            if not text.strip():
                self.left_out["paragraphs without text"] += 1
                continue
            supporting = title in titles if fields.supporting is None else any(mark == 1 for mark in marks)
            paragraphs.append(Paragraph(f"{title}\n{text}" if title else text, title, supporting))
        question = self._scalar(record, "question", fields.question)
        answer = self._scalar(record, "answer", fields.answer)
        if not question.strip() or not paragraphs:
            self.left_out["records without a question or without paragraphs"] += 1
            return None
        if not any(paragraph.supporting for paragraph in paragraphs):
            self.left_out["questions without a supporting paragraph"] += 1
            return None
        name = self._scalar(record, "name", fields.name)
        return MappedQuestion(question, answer, tuple(paragraphs), name, origin)
