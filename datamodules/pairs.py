"""What the data modules that give `PairBatch` have in common: rows with queries, behind the template of the model."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sized
from typing import Any, Protocol, TypeVar

from datamodules.corpus import Corpus
from datamodules.pair_batch import PairBatch
from datamodules.pair_sampler import PairSampler
from datamodules.resumable_loader import ResumableLoader, Rows
from datamodules.run_parts import place_of, template_of
from datamodules.text_data import Split, TextDataModule, at_least_one
from r3mem.plain_data.query_template import QueryTemplate

CorpusT = TypeVar("CorpusT", bound=Corpus[Any])


class PairLoader(ResumableLoader[PairBatch]):
    """Batches of pairs; see :class:`ResumableLoader`."""


class PairRows(Rows[PairBatch], Sized, Protocol):
    """Rows of a split, numbered."""


class PairDataModule(TextDataModule[CorpusT, PairLoader]):
    """Documents or questions as rows of pair batches.

    Args:
        train: Source or sources (see ``datamodules/sources.py``): a file of JSON lines, a folder, a pattern.
        query_tokens: Most tokens of a query; longer ones are cut, which is reported.
        query_template: What stands before a query; its end decides whether a space belongs to the query. None for that
            of the model being trained, or the default without a model.
        shared: The arguments of :class:`datamodules.text_data.TextDataModule`.

    Raises:
        ConfigError: If a number makes no sense.
    """

    cache_name = "pairs"

    def __init__(
        self, train: str | list[str], *, query_tokens: int = 64, query_template: str | None = None, **shared: Any
    ) -> None:
        super().__init__(train, **shared)
        at_least_one(query_tokens=query_tokens)
        self.query_tokens = query_tokens
        self.query_template = None if query_template is None else QueryTemplate(query_template)

    @abstractmethod
    def rows(self, corpus: CorpusT, training: bool) -> PairRows:
        """The rows of a split."""

    @abstractmethod
    def settings(self) -> tuple[object, ...]:
        """All that decides, beside the documents, what rows hold."""

    def check_model(self) -> None:
        """See :meth:`TextDataModule.check_model`; the model may not have another template.

        Refused even where the documents were read before the model was there.
        """
        self.resolve_template()

    def resolve_template(self) -> QueryTemplate:
        """The template that was given, or that of the model being trained."""
        self.query_template = template_of(self.query_template, self.model_side)
        return self.query_template

    def size(self, corpus: CorpusT) -> str:
        """See :meth:`TextDataModule.size`."""
        return f"{len(self.rows(corpus, False)):,} rows"

    def loader(self, split: Split, shuffled: bool) -> PairLoader:
        """See :meth:`TextDataModule.loader`."""
        corpus = self.documents(split)
        rows = self.rows(corpus, training=split == "train")
        rank, world_size = place_of(self.trainer)
        content = hashlib.blake2b(corpus.digests.tobytes() + repr(self.settings()).encode(), digest_size=8).hexdigest()
        sampler = PairSampler(len(rows), shuffled, self.batch_size, rank, world_size, self.seed, content)
        return PairLoader(rows, sampler, self.num_workers, self.pin_memory)
