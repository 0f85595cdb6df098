"""Documents for training, evaluation and prediction, segment by segment.

Batches are `SegmentBatch` dictionaries; shapes: B rows, T segments a batch, N tokens a segment.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from datamodules.run_parts import place_of
from datamodules.segment_cut import SegmentCut
from datamodules.segment_loader import SegmentLoader, SegmentRows
from datamodules.segment_sampler import Order, SegmentSampler, StreamSampler, WindowSampler
from datamodules.sources import Source
from datamodules.text_data import Split, TextDataModule, at_least_one
from datamodules.text_store import TextStore, TextWriter
from datamodules.token_corpus import TokenCorpus
from r3mem.errors import ConfigError
from r3mem.model.run_contract import DataSide

DEFAULT_TEXT = "stdlib:pydoc_data.topics"


class DocumentsDataModule(TextDataModule[TokenCorpus, SegmentLoader]):
    """Texts of any kind as streams of segments.

    Args:
        train: Source or sources (see ``datamodules/sources.py``): file, folder, glob, ``hf://name:config:split`` or
            ``stdlib:pydoc_data.topics``.
        predict: Sources for prediction; None for every document of ``train``, before any split.
        mode: ``stream`` reads documents from beginning to end, rows keep their memory over batches. ``window`` gives
            every row of every batch a fresh random window of T * N tokens, memory always dropped (evaluation:
            documents cut into consecutive windows, each once).
        segment_tokens: N; or the shortest and the longest, between which training draws the length of every segment,
            anew for each document and epoch. Evaluation, prediction and overfitting take the longest.
        segments_per_step: T.
        text_field: Where the text is in a record: dotted path or several; None for the rule of
            ``datamodules/record_text.py``.
        min_tokens: Shorter documents are left out (never in prediction); how many is reported.
        shared: The arguments of :class:`datamodules.text_data.TextDataModule`.

    Raises:
        ConfigError: If a number makes no sense.
    """

    cache_name = "tokens"

    def __init__(
        self,
        train: str | list[str] = DEFAULT_TEXT,
        *,
        predict: str | list[str] | None = None,
        mode: Literal["stream", "window"] = "stream",
        segment_tokens: int | tuple[int, int] = 256,
        segments_per_step: int = 2,
        text_field: str | list[str] | None = None,
        min_tokens: int = 1,
        **shared: Any,
    ) -> None:
        super().__init__(train, **shared)
        at_least_one(segments_per_step=segments_per_step, min_tokens=min_tokens)
        if mode not in ("stream", "window"):
            raise ConfigError(f"mode {mode!r}: use 'stream' (whole documents) or 'window' (random windows)")
        shortest, longest = (segment_tokens, segment_tokens) if isinstance(segment_tokens, int) else segment_tokens
        self.cut = SegmentCut(shortest, longest)
        self.mode, self.segment_tokens, self.segments_per_step = mode, longest, segments_per_step
        self.min_tokens, self.reading = min_tokens, replace(self.reading, text_field=text_field)
        self.sources["predict"] = predict

    def open_store(self, source: Source) -> TextStore:
        """See :meth:`TextDataModule.open_store`."""
        writer = TextWriter(source, self.resolve_tokenizer(), self.max_documents, rank_zero_info)
        return TextStore(*writer.make(self.cache_dir))

    def corpus(self, stores: list[TextStore]) -> TokenCorpus:
        """See :meth:`TextDataModule.corpus`."""
        return TokenCorpus(stores)

    def size(self, corpus: TokenCorpus) -> str:
        """See :meth:`TextDataModule.size`."""
        return f"{int(corpus.lengths.sum()):,} tokens"

    def data_side(self) -> DataSide:
        """See :meth:`HasDataSide.data_side`."""
        return DataSide(self.segment_tokens, predicted=self._splits.get("predict"))

    def predict_dataloader(self) -> SegmentLoader:
        """Every document once, begun in the order of the sources; ``document_B`` says which a row holds."""
        return self.loader("predict", shuffled=False)

    def loader(self, split: Split, shuffled: bool) -> SegmentLoader:
        """See :meth:`TextDataModule.loader`."""
        corpus, order = self.documents(split), _order(split, shuffled)
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
        rows = SegmentRows(corpus, self.segments_per_step, self.segment_tokens, self.pad_id)
        return SegmentLoader(rows, sampler, self.num_workers, self.pin_memory)


def _order(split: Split, shuffled: bool) -> Order:
    if split == "predict":
        return "given"
    return "shuffled" if shuffled else "longest_first"
