"""What the data modules of texts have in common: sources, splits, set-up, tokenizer, cache and loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from transformers import PreTrainedTokenizerBase

from datamodules.corpus import Corpus, check_fractions, warn_of_shared_documents
from datamodules.resumable_loader import ResumableLoader
from datamodules.run_parts import overfits, padding_of, side_of_model, tokenizer_of
from datamodules.sources import ReadingOptions, Source, open_source
from datamodules.store import DocumentStore, StoreReport
from r3mem.errors import ConfigError, InputError
from r3mem.model.run_contract import DataSide, HasDataSide, ModelSide
from r3mem.plain_data.cache import cache_folder

Split = Literal["train", "validation", "test", "predict"]
PARTED: tuple[Split, ...] = ("train", "validation", "test")
STAGES: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "validation"),
    "validate": ("validation",),
    "test": ("test",),
    "predict": ("predict",),
    None: (*PARTED, "predict"),
}
CorpusT = TypeVar("CorpusT", bound=Corpus[Any])
LoaderT = TypeVar("LoaderT", bound=ResumableLoader[Any])


class TextDataModule(LightningDataModule, HasDataSide, ABC, Generic[CorpusT, LoaderT]):
    """Texts of any kind, read once and kept on disk, in splits.

    What costs time is done once and kept in ``cache_dir``; batches are read from there, never all at once. If neither
    ``validation`` nor ``test`` is given, both are parted off ``train`` by a hash of each document's text. Rows are
    split over the processes of a distributed run here; the trainer's own distributed sampler is not used.

    Args:
        train: Source or sources (see ``datamodules/sources.py``).
        validation: Sources of the validation split.
        test: Sources of the test split.
        tokenizer: A tokenizer, or the hub id or folder of one; None for that of the model being trained.
        batch_size: B, rows of each process.
        validation_fraction: Share of ``train`` for validation, if it is split.
        test_fraction: The same for test.
        max_documents: Read at most so many documents of each source.
        document_start: Regular expression; in plain text files a matching line begins a new document.
        seed: Of the order of the rows, and of what rows draw.
        num_workers: Processes that read ahead.
        pin_memory: Put batches into memory that a GPU copies from faster.
        cache_dir: Where what was read is kept; None for the user's cache folder.

    Raises:
        ConfigError: If a number makes no sense.
    """

    #: Name of the folder in the user's cache.
    cache_name: str
    #: Documents with fewer tokens are left out, but in prediction; 0 where a subclass has no such argument.
    min_tokens: int = 0

    def __init__(
        self,
        train: str | list[str],
        *,
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        batch_size: int = 8,
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
        at_least_one(batch_size=batch_size, max_documents=max_documents)
        not_negative(num_workers=num_workers, seed=seed)
        check_fractions(validation_fraction, test_fraction)
        self.sources: dict[Split, str | list[str] | None] = {"train": train, "validation": validation, "test": test}
        self.tokenizer, self.batch_size, self.max_documents = tokenizer, batch_size, max_documents
        self.validation_fraction, self.test_fraction = validation_fraction, test_fraction
        self.reading = ReadingOptions(document_start=document_start)
        self.seed, self.num_workers, self.pin_memory = seed, num_workers, pin_memory
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir is not None else cache_folder(self.cache_name)
        #: How each source was read, and what of it was left out.
        self.reports: dict[str, StoreReport] = {}
        #: What the model of the run handed over when the data were last set up; None without one.
        self.model_side: ModelSide | None = None
        self._stores: dict[str, Any] = {}
        self._splits: dict[Split, CorpusT] = {}

    # -- what a subclass says ----------------------------------------------------------------------------------------

    @abstractmethod
    def open_store(self, source: Source) -> DocumentStore:
        """The store of one source."""

    @abstractmethod
    def corpus(self, stores: list[Any]) -> CorpusT:
        """The documents of some stores."""

    @abstractmethod
    def size(self, corpus: CorpusT) -> str:
        """How much a split holds, in words."""

    @abstractmethod
    def loader(self, split: Split, shuffled: bool) -> LoaderT:
        """Batches of a split that holds documents, in a new order every epoch or in a fixed one."""

    def check_model(self) -> None:
        """Refuse a model that the data do not fit, before anything is read.

        Raises:
            ConfigError: It does not.
        """

    def data_side(self) -> DataSide:
        """See :meth:`HasDataSide.data_side`; here nothing but the defaults."""
        return DataSide()

    # -- set-up ------------------------------------------------------------------------------------------------------

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs, or find it in the cache; the other ranks of a machine wait for the first.

        Args:
            stage: ``fit``, ``validate``, ``test``, ``predict`` or None for all. Splits that the data module does not
                have are passed over.

        Raises:
            InputError: If a source cannot be read, holds nothing, or has other fields than the mapping says.
            ConfigError: If something is missing that the model would hand over, or the model is of other settings.
        """
        self.model_side = side_of_model(self.trainer)
        self.check_model()
        for split in STAGES[stage]:
            if split in self.sources and split not in self._splits:
                self._splits[split] = self._prepare(split)
        warn_of_shared_documents({split: corpus.digests for split, corpus in self._splits.items()})

    def documents(self, split: Split) -> CorpusT:
        """The documents of a split after ``setup``, each read when it is asked for; ``document_B`` counts them.

        ``.origin(i)`` says where one stood.
        """
        if split not in self._splits:
            raise ConfigError(f"the {split} documents are not there yet: call setup() first")
        return self._splits[split]

    def resolve_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that was given, or that of the model being trained."""
        self.tokenizer = tokenizer_of(self.tokenizer, self.model_side)
        return self.tokenizer

    @property
    def pad_id(self) -> int:
        """Stands beyond the lengths."""
        return padding_of(self.resolve_tokenizer())

    def read(self, given: str | list[str] | None) -> CorpusT:
        """All documents of some sources."""
        return self.corpus([self._store(spec) for spec in ([given] if isinstance(given, str) else given or ())])

    # -- loaders -----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> LoaderT:
        """The training split, in a new order every epoch; resumable in mid-epoch."""
        if not len(self.documents("train")):
            short = "min_tokens, " if self.min_tokens else ""
            raise InputError(f"no document is left to train on: lower {short}validation_fraction or test_fraction")
        return self.loader("train", shuffled=not overfits(self.trainer))

    def val_dataloader(self) -> LoaderT | list[LoaderT]:
        """All of the validation split in a fixed order; an empty list if it is empty."""
        return self.loader("validation", shuffled=False) if len(self.documents("validation")) else []

    def test_dataloader(self) -> LoaderT:
        """All of the test split in a fixed order."""
        if not len(self.documents("test")):
            raise InputError("the test split is empty: give test sources, or raise test_fraction")
        return self.loader("test", shuffled=False)

    def _prepare(self, split: Split) -> CorpusT:
        """The documents of a split, read or found in the cache; says how many there are."""
        given = self.sources[split]
        if split == "predict":
            corpus = self.read(self.sources["train"] if given is None else given)
            rank_zero_info(f"predict: {len(corpus):,} documents, {int(corpus.counts('ids').sum()):,} tokens")
            return corpus
        parted = self.sources["validation"] is None and self.sources["test"] is None
        if parted:
            parts = self.read(self.sources["train"]).split(self.validation_fraction, self.test_fraction)
            corpus = parts[PARTED.index(split)]
        else:
            corpus = self.read(given)
        kept = corpus.keep(corpus.counts("ids") >= self.min_tokens) if self.min_tokens else corpus
        line = f"{split}: {len(kept):,} documents, {self.size(kept)}"
        if len(kept) < len(corpus):
            line += f"; {len(corpus) - len(kept):,} shorter than min_tokens={self.min_tokens} left out"
        rank_zero_info(line)
        fraction = {"validation": self.validation_fraction, "test": self.test_fraction}.get(split, 0.0)
        if not len(kept) and split != "train" and (fraction if parted else given):
            advice = f"give {split} sources or raise {split}_fraction" if parted else "lower min_tokens"
            rank_zero_warn(f"the {split} split is empty: {advice}")
        return kept

    def _store(self, spec: str) -> DocumentStore:
        if spec not in self._stores:
            source = open_source(spec, self.reading)
            store = self.open_store(source)
            ignored = f", {source.ignored_files:,} files of unknown kinds passed over" if source.ignored_files else ""
            rank_zero_info(f"{spec}: {store.report}{ignored}")
            self._stores[spec], self.reports[spec] = store, store.report
        return self._stores[spec]


def at_least_one(**counts: int | None) -> None:
    """Refuse counts below 1; None passes.

    Raises:
        ConfigError: Naming the first that is.
    """
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ConfigError(f"{name} {count}: it must be 1 or more")


def not_negative(**numbers: int) -> None:
    """Refuse numbers below 0.

    Raises:
        ConfigError: Naming all of them.
    """
    if min(numbers.values()) < 0:
        named = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise ConfigError(f"{named}: neither may be negative")
