"""Documents for training, evaluation and prediction, segment by segment.

Batches are `SegmentBatch` dictionaries; shapes: B rows, T segments a batch, N tokens a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from transformers import PreTrainedTokenizerBase

from datamodules.corpus import check_fractions, warn_of_shared_documents
from datamodules.run_parts import padding_of, place_of, tokenizer_of
from datamodules.segment_cut import SegmentCut
from datamodules.segment_loader import SegmentLoader, SegmentRows
from datamodules.segment_sampler import Order, SegmentSampler, StreamSampler, WindowSampler
from datamodules.sources import ReadingOptions, open_source
from datamodules.text_store import TextStore, TextWriter
from datamodules.token_corpus import TokenCorpus
from r3mem.errors import ConfigError, InputError
from r3mem.plain_data.cache import cache_folder

DEFAULT_TEXT = "stdlib:pydoc_data.topics"
Split = Literal["train", "validation", "test", "predict"]


class DocumentsDataModule(LightningDataModule):
    """Texts of any kind as streams of segments.

    Tokens are made once and kept in ``cache_dir``; documents are read from there without being loaded. If neither
    ``validation`` nor ``test`` is given, both are parted off ``train`` by a hash of each document's text. Rows are
    split over the processes of a distributed run here; the trainer's own distributed sampler is not used.

    Args:
        train: Source or sources (see ``datamodules/sources.py``): file, folder, glob, ``hf://name:config:split`` or
            ``stdlib:pydoc_data.topics``.
        validation: Sources of the validation split.
        test: Sources of the test split.
        predict: Sources for prediction; None for every document of ``train``, before any split.
        tokenizer: A tokenizer, or the hub id or folder of one; None for that of the model being trained
            (``lightning_module.backbone.tokenizer``).
        mode: ``stream`` reads documents from beginning to end, rows keep their memory over batches. ``window`` gives
            every row of every batch a fresh random window of T * N tokens, memory always dropped (evaluation:
            documents cut into consecutive windows, each once).
        segment_tokens: N; or the shortest and the longest, between which training draws the length of every segment,
            anew for each document and epoch. Evaluation, prediction and overfitting take the longest.
        segments_per_step: T.
        batch_size: B, rows of each process.
        validation_fraction: Share of ``train`` documents for validation, if they are split.
        test_fraction: The same for test.
        text_field: Where the text is in a record: dotted path or several; None for the rule of
            ``datamodules/record_text.py``.
        document_start: Regular expression; in plain text files a matching line begins a new document.
        min_tokens: Shorter documents are left out (never in prediction); how many is reported.
        max_documents: Read at most so many documents of each source.
        seed: Of the order of the documents.
        num_workers: Processes that read ahead.
        pin_memory: Put batches into memory that a GPU copies from faster.
        cache_dir: Where tokens are kept; None for the user's cache folder.

    Raises:
        ConfigError: If a number makes no sense.
    """

    def __init__(
        self,
        train: str | list[str] = DEFAULT_TEXT,
        validation: str | list[str] | None = None,
        test: str | list[str] | None = None,
        predict: str | list[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        mode: Literal["stream", "window"] = "stream",
        segment_tokens: int | tuple[int, int] = 256,
        segments_per_step: int = 2,
        batch_size: int = 8,
        validation_fraction: float = 0.05,
        test_fraction: float = 0.05,
        text_field: str | list[str] | None = None,
        document_start: str | None = None,
        min_tokens: int = 1,
        max_documents: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        counts = {
            "segments_per_step": segments_per_step,
            "batch_size": batch_size,
            "min_tokens": min_tokens,
            "max_documents": 1 if max_documents is None else max_documents,
        }
        for name, count in counts.items():
            if count < 1:
                raise ConfigError(f"{name} {count}: it must be 1 or more")
        if num_workers < 0 or seed < 0:
            raise ConfigError(f"num_workers {num_workers}, seed {seed}: neither may be negative")
        if mode not in ("stream", "window"):
            raise ConfigError(f"mode {mode!r}: use 'stream' (whole documents) or 'window' (random windows)")
        check_fractions(validation_fraction, test_fraction)
        self.sources = {"train": train, "validation": validation, "test": test, "predict": predict}
        self.tokenizer = tokenizer
        shortest, longest = (segment_tokens, segment_tokens) if isinstance(segment_tokens, int) else segment_tokens
        self.cut = SegmentCut(shortest, longest)
        self.mode, self.segment_tokens, self.segments_per_step = mode, longest, segments_per_step
        self.batch_size, self.min_tokens, self.max_documents = batch_size, min_tokens, max_documents
        self.validation_fraction, self.test_fraction = validation_fraction, test_fraction
        self.reading = ReadingOptions(text_field, document_start=document_start)
        self.seed, self.num_workers, self.pin_memory = seed, num_workers, pin_memory
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir is not None else cache_folder("tokens")
        self._stores: dict[str, TextStore] = {}
        self._splits: dict[str, TokenCorpus] = {}

    def setup(self, stage: str | None = None) -> None:
        """Tokenise what the stage needs, or find it in the cache; the other ranks of a machine wait for the first.

        Args:
            stage: ``fit``, ``validate``, ``test``, ``predict`` or None for all.

        Raises:
            InputError: If a source cannot be read or holds no text.
            ConfigError: If there is no tokenizer.
        """
        wanted: dict[str | None, tuple[Split, ...]] = {
            "fit": ("train", "validation"),
            "validate": ("validation",),
            "test": ("test",),
            "predict": ("predict",),
            None: ("train", "validation", "test", "predict"),
        }
        for split in wanted[stage]:
            if split not in self._splits:
                self._splits[split] = self._prepare(split)
        warn_of_shared_documents({split: corpus.digests for split, corpus in self._splits.items()})

    def train_dataloader(self) -> SegmentLoader:
        """The training split, in a new order every epoch; resumable in mid-epoch."""
        corpus = self._split("train")
        if not len(corpus):
            raise InputError("no document is left to train on: lower min_tokens, validation_fraction or test_fraction")
        # Overfitting repeats the first few batches, which must then be the same ones in every epoch.
        overfit = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._loader(corpus, "longest_first" if overfit else "shuffled")

    def val_dataloader(self) -> SegmentLoader | list[SegmentLoader]:
        """All of the validation split in a fixed order; an empty list if it is empty."""
        corpus = self._split("validation")
        return self._loader(corpus, "longest_first") if len(corpus) else []

    def test_dataloader(self) -> SegmentLoader:
        """All of the test split in a fixed order."""
        corpus = self._split("test")
        if not len(corpus):
            raise InputError("the test split is empty: give test sources, or raise test_fraction")
        return self._loader(corpus, "longest_first")

    def predict_dataloader(self) -> SegmentLoader:
        """Every document once, begun in the order of the sources; ``document_B`` says which a row holds."""
        return self._loader(self._split("predict"), "given")

    def documents(self, split: Split) -> TokenCorpus:
        """The documents of a split after ``setup``; ``document_B`` counts them. ``.origin(i)`` says where one stood."""
        return self._split(split)

    def _split(self, split: Split) -> TokenCorpus:
        if split not in self._splits:
            raise ConfigError(f"the {split} documents are not there yet: call setup() first")
        return self._splits[split]

    def _prepare(self, split: Split) -> TokenCorpus:
        given = self.sources[split]
        if split == "predict":
            return self._corpus(given if given is not None else self.sources["train"])
        parted = self.sources["validation"] is None and self.sources["test"] is None
        if parted:
            parts = self._corpus(self.sources["train"]).split(self.validation_fraction, self.test_fraction)
            corpus = parts[("train", "validation", "test").index(split)]
        else:
            corpus = self._corpus(given)
        long_enough = corpus.lengths >= self.min_tokens
        kept = corpus.keep(long_enough)
        line = f"{split}: {len(kept):,} documents, {int(kept.lengths.sum()):,} tokens"
        if len(kept) < len(corpus):
            line += f"; {len(corpus) - len(kept):,} shorter than min_tokens={self.min_tokens} left out"
        rank_zero_info(line)
        fraction = {"validation": self.validation_fraction, "test": self.test_fraction}.get(split, 0.0)
        if not len(kept) and (given or (parted and fraction > 0)) and split != "train":
            advice = f"give {split} sources or raise {split}_fraction" if parted else "lower min_tokens"
            rank_zero_warn(f"the {split} split is empty: {advice}")
        return kept

    def _corpus(self, given: str | Sequence[str] | None) -> TokenCorpus:
        specs = [given] if isinstance(given, str) else list(given or ())
        return TokenCorpus([self._store(spec) for spec in specs])

    def _store(self, spec: str) -> TextStore:
        if spec not in self._stores:
            source = open_source(spec, self.reading)
            writer = TextWriter(source, self._resolve_tokenizer(), self.max_documents, rank_zero_info)
            store = TextStore(*writer.make(self.cache_dir))
            ignored = f", {source.ignored_files:,} files of unknown kinds passed over" if source.ignored_files else ""
            rank_zero_info(f"{spec}: {store.report}{ignored}")
            self._stores[spec] = store
        return self._stores[spec]

    def _resolve_tokenizer(self) -> PreTrainedTokenizerBase:
        self.tokenizer = tokenizer_of(self.tokenizer, self.trainer)
        return self.tokenizer

    def _loader(self, corpus: TokenCorpus, order: Order) -> SegmentLoader:
        rank, world_size = place_of(self.trainer)
        shape: dict[str, Any] = {
            "batch_size": self.batch_size, "rank": rank, "world_size": world_size, "seed": self.seed,
        }  # fmt: skip
        step_tokens = self.segments_per_step * self.segment_tokens
        drawn = self.cut.drawn and order == "shuffled"
        if drawn:
            shape |= {"cut": self.cut, "segments": self.segments_per_step}
        lengths = corpus.lengths
        sampler: SegmentSampler
        if self.mode == "window" and order == "shuffled":
            sampler = WindowSampler(lengths, step_tokens, **shape)
        else:
            tiled = self.mode == "window" and order != "given"
            spans = StreamSampler.windows(lengths, step_tokens) if tiled else StreamSampler.whole_documents(lengths)
            taken = self.cut.tokens(self.segments_per_step) if drawn else step_tokens
            sampler = StreamSampler(spans, taken, order, **shape)
            if sampler.filled < 0.5 and order == "shuffled":
                rank_zero_warn(
                    f"{1 - sampler.filled:.0%} of the rows are empty: {len(corpus)} documents, the longest as long as "
                    f"all batches together, for {sampler.rows} rows; lower batch_size or use mode='window'"
                )
        pad_id = padding_of(self._resolve_tokenizer())
        rows = SegmentRows(corpus, self.segments_per_step, self.segment_tokens, pad_id)
        return SegmentLoader(rows, sampler, self.num_workers, self.pin_memory)
