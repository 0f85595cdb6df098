"""Question answering: a question, its paragraphs, and which of them support the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import Dataset

from datamodules.corpus import Corpus
from datamodules.fields import QuestionFields
from datamodules.pair_batch import EMPTY_ROW, PairBatch, PairRow, collate_pairs
from datamodules.pair_sampler import RowDraw
from datamodules.pairs import PairDataModule
from datamodules.question_reader import MappedQuestion
from datamodules.question_store import QuestionStore, QuestionWriter
from datamodules.sources import Source
from datamodules.text_data import at_least_one
from r3mem.errors import ConfigError
from r3mem.hierarchy import Document

PARAGRAPH_LEVEL = "paragraph"


class QuestionCorpus(Corpus[QuestionStore], Sequence[Document]):
    """Questions of several stores, read from disk when they are asked for; see :class:`Corpus`."""

    def __getitem__(self, document: int) -> Document:  # type: ignore[override]
        """The paragraphs as one document with a part for each, the question with its answer and supporting spans."""
        store, own = self.locate(document)
        return store.document(own)

    def __iter__(self) -> Iterator[Document]:
        return (self[document] for document in range(len(self)))

    def question(self, document: int) -> MappedQuestion:
        """A question with its paragraphs, as text."""
        store, own = self.locate(document)
        return store.question(own)


def candidates_of(supporting: np.ndarray, count: int, seed: int | None) -> np.ndarray:
    """Numbers of the paragraphs that a question is compared with: all that support it, as far as they fit, and others.

    Args:
        supporting: For each paragraph, whether it supports the answer, ``bool``.
        count: Most of them.
        seed: Of the draw; None takes the first of each, in their order.
    """
    order = np.arange(len(supporting))
    rng = None if seed is None else np.random.default_rng(seed)
    if rng is not None:
        rng.shuffle(order)
    # Supporting ones first, the rest in the order drawn; then mixed, so that the place says nothing.
    chosen = order[np.argsort(~supporting[order], kind="stable")][:count]
    if rng is None:
        chosen.sort()
    else:
        rng.shuffle(chosen)
    return chosen


class QuestionRows(Dataset[PairRow]):
    """One row a question: its paragraphs, or as many of them as there are candidates.

    Args:
        corpus: The questions.
        candidates: T; None for all paragraphs, T being those of the batch's longest row.
        level: ``level_T`` of all of them.
        pad_id: Stands beyond the lengths.
    """

    def __init__(self, corpus: QuestionCorpus, candidates: int | None, level: int, pad_id: int = 0) -> None:
        self.corpus, self.candidates, self.level, self.pad_id = corpus, candidates, level, pad_id

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, draw: RowDraw) -> PairRow:
        if draw.row < 0:
            return EMPTY_ROW
        store, own = self.corpus.locate(draw.row)
        supporting = store.supporting[own] > 0
        chosen = np.arange(len(supporting))
        if self.candidates is not None:
            chosen = candidates_of(supporting, self.candidates, draw.seed)
        first = int(store.supporting.offsets[own])
        segments = [store.paragraphs[first + int(p)].astype(np.int64) for p in chosen]
        query = store.questions[own].astype(np.int64)
        return PairRow(draw.row, segments, [query] * len(segments), supporting[chosen].tolist())

    def collate(self, rows: list[PairRow]) -> PairBatch:
        """One batch of rows."""
        n_segments = self.candidates or max(1, *(len(row.segments) for row in rows))
        return collate_pairs(rows, [self.level] * n_segments, [-1] * n_segments, self.pad_id)


class QuestionsDataModule(PairDataModule[QuestionCorpus]):
    """Questions with context paragraphs.

    Training: all supporting paragraphs that fit, and others drawn anew every epoch. Evaluation: all, in their order.

    Args:
        train: Source or sources (see ``datamodules/sources.py``): a file of JSON lines, a folder, a pattern.
        fields: Where things are in a record.
        candidates: T in training.
        paragraph_tokens: Most tokens of a paragraph; longer ones are cut, which is reported.
        level: Level of the paragraphs; None for the level called ``paragraph`` of the model's hierarchy, 0 if it has
            no level of that name or there is no model.
        shared: The arguments of :class:`datamodules.pairs.PairDataModule`.
    """

    def __init__(
        self,
        train: str | list[str],
        fields: QuestionFields,
        candidates: int = 4,
        paragraph_tokens: int = 256,
        level: int | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(train, **shared)
        at_least_one(candidates=candidates, paragraph_tokens=paragraph_tokens)
        if level is not None and level < 0:
            raise ConfigError(f"level {level}: levels are counted from 0, the document level")
        self.fields, self.candidates, self.paragraph_tokens, self.level = fields, candidates, paragraph_tokens, level

    def open_store(self, source: Source) -> QuestionStore:
        """See :meth:`TextDataModule.open_store`."""
        tokenizer = self.resolve_tokenizer()
        writer = QuestionWriter(
            source,
            self.fields,
            tokenizer,
            self.query_tokens,
            self.resolve_template(),
            self.paragraph_tokens,
            max_documents=self.max_documents,
            tell=rank_zero_info,
        )
        folder, reused = writer.make(self.cache_dir)
        return QuestionStore(folder, tokenizer, reused)

    def corpus(self, stores: list[QuestionStore]) -> QuestionCorpus:
        """See :meth:`TextDataModule.corpus`."""
        return QuestionCorpus(stores)

    def rows(self, corpus: QuestionCorpus, training: bool) -> QuestionRows:
        """See :meth:`PairDataModule.rows`."""
        return QuestionRows(corpus, self.candidates if training else None, self._paragraph_level(), self.pad_id)

    def settings(self) -> tuple[object, ...]:
        """See :meth:`PairDataModule.settings`."""
        return self.candidates, self.paragraph_tokens, self.query_tokens, self._paragraph_level()

    def _paragraph_level(self) -> int:
        if self.level is not None:
            return self.level
        hierarchy = None if self.model_side is None else self.model_side.hierarchy
        names = [] if hierarchy is None else list(hierarchy.level_names)
        return names.index(PARAGRAPH_LEVEL) if PARAGRAPH_LEVEL in names else 0
