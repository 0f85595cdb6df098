"""Questions with tokenised paragraphs: made once, then read from disk.

One row a question: ``questions`` (ids), ``supporting`` (0 or 1 a paragraph), ``about`` (JSON: everything as text).
One row a paragraph: ``paragraphs`` (ids); those of a question begin where its row of ``supporting`` does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from datamodules.fields import QuestionFields
from datamodules.question_reader import MappedQuestion, Paragraph, QuestionReader
from datamodules.ragged import RaggedWriter
from datamodules.sources import Source
from datamodules.store import DocumentStore, StoreWriter, text_digest
from r3mem.hierarchy import Document
from r3mem.plain_data.query_template import QueryTemplate


class QuestionStore(DocumentStore):
    """The questions of one source, memory-mapped.

    Args:
        folder: A complete store.
        tokenizer: The one that it was made with.
        reused: Whether it was there before this run, for the report.

    Raises:
        InputError: If its files do not agree with each other.
    """

    types = {"questions": None, "paragraphs": None, "supporting": np.uint8, "about": np.uint8}

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerBase, reused: bool = True) -> None:
        super().__init__(folder, reused)
        self.tokenizer = tokenizer
        self.questions, self.paragraphs, self.supporting, self.about = self.columns.values()

    def question(self, number: int) -> MappedQuestion:
        """A question with its paragraphs, as text."""
        about = json.loads(self.about[number].tobytes())
        paragraphs = tuple(Paragraph(**paragraph) for paragraph in about.pop("paragraphs"))
        return MappedQuestion(**about, paragraphs=paragraphs)

    def document(self, number: int) -> Document:
        """The paragraphs as one document with a part for each, the question with its answer and supporting spans."""
        mapped = self.question(number).document()
        return Document.of(
            mapped.text, self.tokenizer, parts=mapped.parts, questions=mapped.questions, name=mapped.name
        )

    def origin(self, number: int) -> str:
        """See :meth:`DocumentStore.origin`."""
        return self.question(number).origin


class QuestionWriter(StoreWriter[MappedQuestion]):
    """Tokenises questions and paragraphs.

    Args:
        source: Where the records come from.
        fields: Where things are in them.
        tokenizer: Its ids are stored.
        query_tokens: Questions are cut to so many tokens.
        template: What they stand behind.
        paragraph_tokens: Paragraphs are cut to so many tokens.
        options: The other arguments of :class:`StoreWriter`.
    """

    store = QuestionStore
    tokens_in = "paragraphs"

    def __init__(
        self,
        source: Source,
        fields: QuestionFields,
        tokenizer: PreTrainedTokenizerBase,
        query_tokens: int,
        template: QueryTemplate,
        paragraph_tokens: int,
        **options: Any,
    ) -> None:
        super().__init__(source, tokenizer, **options)
        self.reader = QuestionReader(fields)
        self.left_out = self.reader.left_out
        self.fields, self.query_tokens, self.template = fields, query_tokens, template
        self.paragraph_tokens = paragraph_tokens

    def key(self) -> dict[str, Any]:
        """See :meth:`StoreWriter.key`."""
        return {
            "source": self.source.content(),
            "fields": asdict(self.fields),
            "tokens": [self.query_tokens, self.paragraph_tokens],
            "before_query": self.template.placed(""),
        }

    def read(self) -> Iterator[MappedQuestion]:
        """See :meth:`StoreWriter.read`."""
        return self.reader.read(self.source)

    def write(self, columns: dict[str, RaggedWriter], documents: Iterator[MappedQuestion]) -> Iterator[int]:
        """See :meth:`StoreWriter.write`."""
        return (self._add(columns, mapped) for mapped in documents)

    def _add(self, columns: dict[str, RaggedWriter], mapped: MappedQuestion) -> int:
        columns["questions"].add(
            self.tokenise([self.template.placed(mapped.question)], self.query_tokens, "questions")[0]
        )
        texts = [paragraph.text for paragraph in mapped.paragraphs]
        for ids in self.tokenise(texts, self.paragraph_tokens, "paragraphs"):
            columns["paragraphs"].add(ids)
        columns["supporting"].add([paragraph.supporting for paragraph in mapped.paragraphs])
        columns["about"].add(json.dumps(asdict(mapped), ensure_ascii=False).encode("utf-8"))
        return text_digest(mapped.document().text, mapped.origin)
