"""What the data modules that give `PairBatch` have in common: splits, loaders, tokenizer, cache."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sized
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from transformers import PreTrainedTokenizerBase

from datamodules.corpus import Corpus, check_fractions, warn_of_shared_documents
from datamodules.pair_batch import PairBatch
from datamodules.pair_sampler import PairSampler
from datamodules.resumable_loader import ResumableLoader, Rows
from datamodules.run_parts import padding_of, place_of, template_of, tokenizer_of
from datamodules.sources import ReadingOptions, Source, open_source
from datamodules.store import StoreReport
from r3mem.errors import ConfigError, InputError
from r3mem.plain_data.cache import cache_folder
from r3mem.plain_data.query_template import QueryTemplate

PairSplit = Literal["train", "validation", "test", "predict"]
STAGES: dict[str | None, tuple[PairSplit, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("predict",),
    None: ("train", "validation", "test", "predict"),
}
CorpusT = TypeVar("CorpusT", bound=Corpus[Any])


class PairLoader(ResumableLoader[PairBatch]):
    """Batches of pairs; see :class:`ResumableLoader`."""


class PairRows(Rows[PairBatch], Sized, Protocol):
    """Rows of a split, numbered."""


class PairDataModule(LightningDataModule, ABC, Generic[CorpusT]):
    """Documents or questions as rows of pair batches.

    What costs time is done once and kept in ``cache_dir``; rows are read from there, never all at once. If neither
    ``validation`` nor ``test`` is given, both are parted off ``train`` by a hash of each document's text. Rows are
    split over the processes of a distributed run here; the trainer's own distributed sampler is not used.

    Args:
        train: Source or sources (see ``datamodules/sources.py``): a file of JSON lines, a folder, a pattern.
        validation: Sources of the validation split.
        test: Sources of the test split.
        tokenizer: A tokenizer, or the hub id or folder of one; None for that of the model being trained.
        batch_size: B, rows of each process.
        query_tokens: Most tokens of a query; longer ones are cut, which is reported.
        query_template: What stands before a query; its end decides whether a space belongs to the query. None for that
            of the model being trained, or the default without a model.
        validation_fraction: Share of ``train`` for validation, if it is split.
        test_fraction: The same for test.
        max_documents: Read at most so many documents of each source.
        document_start: Regular expression; in plain text files a matching line begins a new document.
        seed: Of the order of the rows, and of what rows draw.
        num_workers: Processes that read ahead.
        pin_memory: Put batches into memory that a GPU copies from faster.
        cache_dir: Where the stores are kept; None for the user's cache folder.

    Raises:
        ConfigError: If a number makes no sense.
    """

    def __init__(
        self,
        train: str | list[str],
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        batch_size: int = 8,
        query_tokens: int = 64,
        query_template: str | None = None,
        validation_fraction: float = 0.05,
        test_fraction: float = 0.05,
        max_documents: int | None = None,
        document_start: str | None = None,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        at_least_one(batch_size=batch_size, query_tokens=query_tokens, max_documents=max_documents)
        if num_workers < 0 or seed < 0:
            raise ConfigError(f"num_workers {num_workers}, seed {seed}: neither may be negative")
        check_fractions(validation_fraction, test_fraction)
        self.sources: dict[PairSplit, str | list[str] | None] = {"train": train, "validation": validation, "test": test}
        self.tokenizer, self.batch_size, self.query_tokens = tokenizer, batch_size, query_tokens
        self.query_template = None if query_template is None else QueryTemplate(query_template)
        self.validation_fraction, self.test_fraction = validation_fraction, test_fraction
        self.max_documents, self.reading = max_documents, ReadingOptions(document_start=document_start)
        self.seed, self.num_workers, self.pin_memory = seed, num_workers, pin_memory
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir is not None else cache_folder("pairs")
        #: How each source was read, and what of it was left out.
        self.reports: dict[str, StoreReport] = {}
        self._stores: dict[str, Any] = {}
        self._splits: dict[PairSplit, CorpusT] = {}

    # -- what a subclass says ----------------------------------------------------------------------------------------

    @abstractmethod
    def open_store(self, source: Source) -> Any:
        """The store of one source; it has ``digests`` and ``report``."""

    @abstractmethod
    def corpus(self, stores: list[Any]) -> CorpusT:
        """The documents of some stores."""

    @abstractmethod
    def rows(self, corpus: CorpusT, training: bool) -> PairRows:
        """The rows of a split."""

    @abstractmethod
    def settings(self) -> tuple[object, ...]:
        """All that decides, beside the documents, what rows hold."""

    # -- what they share ---------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs, or find it in the cache; the other ranks of a machine wait for the first.

        Args:
            stage: ``fit``, ``validate``, ``test``, ``predict`` or None for all. Splits that the data module does not
                have are passed over: prediction has no pairs, it is for whole documents.

        Raises:
            InputError: If a source cannot be read, holds nothing, or has other fields than the mapping says.
            ConfigError: If there is no tokenizer or hierarchy, or the model has another template.
        """
        self.resolve_template()  # Refuses another one even where the documents were read before the model was there.
        for split in STAGES[stage]:
            if split in self.sources and split not in self._splits:
                self._splits[split] = self.prepare(split)
        warn_of_shared_documents({split: corpus.digests for split, corpus in self._splits.items()})

    def documents(self, split: PairSplit) -> CorpusT:
        """The documents of a split after ``setup``, each read when it is asked for; ``document_B`` counts them."""
        if split not in self._splits:
            raise ConfigError(f"the {split} documents are not there yet: call setup() first")
        return self._splits[split]

    def train_dataloader(self) -> PairLoader:
        """The training split, in a new order every epoch; resumable in mid-epoch."""
        if not len(self.documents("train")):
            raise InputError("no document is left to train on: lower validation_fraction or test_fraction")
        # Overfitting repeats the first few batches, which must then be the same ones in every epoch.
        overfit = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._loader("train", shuffled=not overfit)

    def val_dataloader(self) -> PairLoader | list[PairLoader]:
        """All of the validation split in a fixed order; an empty list if it is empty."""
        return self._loader("validation", shuffled=False) if len(self.documents("validation")) else []

    def test_dataloader(self) -> PairLoader:
        """All of the test split in a fixed order."""
        if not len(self.documents("test")):
            raise InputError("the test split is empty: give test sources, or raise test_fraction")
        return self._loader("test", shuffled=False)

    def resolve_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that was given, or that of the model being trained."""
        self.tokenizer = tokenizer_of(self.tokenizer, self.trainer)
        return self.tokenizer

    def resolve_template(self) -> QueryTemplate:
        """The template that was given, or that of the model being trained."""
        self.query_template = template_of(self.query_template, self.trainer)
        return self.query_template

    @property
    def pad_id(self) -> int:
        """Stands beyond the lengths."""
        return padding_of(self.resolve_tokenizer())

    def kept(self, corpus: CorpusT) -> CorpusT:
        """The documents that are not too short."""
        return corpus

    def prepare(self, split: PairSplit) -> CorpusT:
        """The documents of a split, read or found in the cache; says how many there are."""
        given = self.sources[split]
        if self.sources["validation"] is None and self.sources["test"] is None:
            parts = self.read(self.sources["train"]).split(self.validation_fraction, self.test_fraction)
            corpus: CorpusT = parts[("train", "validation", "test").index(split)]
        else:
            corpus = self.read(given)
        corpus = self.kept(corpus)
        rank_zero_info(f"{split}: {len(corpus):,} documents, {len(self.rows(corpus, False)):,} rows")
        fraction = {"validation": self.validation_fraction, "test": self.test_fraction}.get(split, 0.0)
        parted = self.sources["validation"] is None and self.sources["test"] is None and split != "train"
        if parted and not len(corpus) and fraction:
            rank_zero_warn(f"the {split} split is empty: give {split} sources or raise {split}_fraction")
        return corpus

    def read(self, given: str | list[str] | None) -> CorpusT:
        """All documents of some sources."""
        return self.corpus([self._store(spec) for spec in ([given] if isinstance(given, str) else given or ())])

    def _store(self, spec: str) -> Any:
        if spec not in self._stores:
            source = open_source(spec, self.reading)
            store = self.open_store(source)
            ignored = f", {source.ignored_files:,} files of unknown kinds passed over" if source.ignored_files else ""
            rank_zero_info(f"{spec}: {store.report}{ignored}")
            self._stores[spec], self.reports[spec] = store, store.report
        return self._stores[spec]

    def _loader(self, split: PairSplit, shuffled: bool) -> PairLoader:
        corpus = self.documents(split)
        rows = self.rows(corpus, training=split == "train")
        rank, world_size = place_of(self.trainer)
        content = hashlib.blake2b(corpus.digests.tobytes() + repr(self.settings()).encode(), digest_size=8).hexdigest()
        sampler = PairSampler(len(rows), shuffled, self.batch_size, rank, world_size, self.seed, content)
        return PairLoader(rows, sampler, self.num_workers, self.pin_memory)


def at_least_one(**counts: int | None) -> None:
    """Refuse counts below 1; None passes.

    Raises:
        ConfigError: Naming the first that is.
    """
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name} {count}: it must be 1 or more")
