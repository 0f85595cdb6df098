"""The four parts as one module, on the level of segments: with gradients for training, stored for whole texts.

Shape legend: B batch, N text tokens, T segments of one text, K virtual tokens, D width, V vocabulary, W >= D width of
what a compressor writes and reads (``slots_BKD`` of a state or a memory are W wide).

One segment, forward (``step``) and backward (``recall``)::

    text --embed--> U_0 ------.
                              v            stored
    [read(M) ; text ; slots] -> V_0 --> stack.retain --> V_S = M'  --> stack.recall --> U_0 --> nearest tokens
                  '--> logits at the text: forward likelihood given M
"""

from __future__ import annotations

import pydoc_data.topics
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from r3mem.backbone import Backbone, Pass
from r3mem.backbone.evaluation_mode import evaluating, is_training
from r3mem.backbone.next_tokens import Scores
from r3mem.backbone.prefix import Prefix
from r3mem.compressors import Compressor, SelectedKeyValues
from r3mem.errors import ConfigError, FingerprintError, InputError
from r3mem.errors.given_texts import Text, given_text
from r3mem.errors.whole_numbers import whole_number, whole_setting
from r3mem.hierarchy import Document, Flat, Hierarchy
from r3mem.memory import Memory, MemoryState, Segments
from r3mem.memory.quantise import Precision, Quantised, dequantise, quantise
from r3mem.memory.states import joined
from r3mem.model.fingerprint import WeightNames, compressor_name
from r3mem.model.memory_checks import Reader, check_whole
from r3mem.model.parts import check_fit, check_kinds, default_binding
from r3mem.model.ratio_model import RatioModel
from r3mem.model.step import Step
from r3mem.model.unpacking import Unpacking, record
from r3mem.plain_data.components import description_digest
from r3mem.plain_data.lossless_tokens import lossless_ids
from r3mem.recall.base import RecallRecord
from r3mem.reversible import Decoder, ReversibleStack

if TYPE_CHECKING:
    from typing_extensions import Self


#: Attributes that had other names in earlier versions.
RENAMED = {"exact": "codec", "spelling": "reconstruct"}


class SegmentModel(RatioModel):
    """Backbone, compressor, decoder and hierarchy, working on segments.

    Without arguments it is ready to use, and nothing has to be trained.

    Args:
        backbone: The language model; None for SmolLM2-135M-Instruct as it is, without adapters.
        compressor: Text to initial memory stream (SEAM 1); None for `SelectedKeyValues`.
        decoder: The reversible stack, or what stands in its place (SEAM 2); None for a stack of one `PositionBinding`.
        hierarchy: Document to segments (SEAM 3); None for segments of equal length.
    """

    def __init__(
        self,
        backbone: Backbone | None = None,
        compressor: Compressor | None = None,
        decoder: Decoder | None = None,
        hierarchy: Hierarchy | None = None,
    ) -> None:
        super().__init__()
        if backbone is None:
            backbone = Backbone(lora_rank=0)
        check_kinds(backbone, compressor, decoder, hierarchy)
        if compressor is None:
            compressor = SelectedKeyValues(backbone.width)
        if decoder is None:
            decoder = ReversibleStack([default_binding(backbone, compressor)])
        hierarchy = hierarchy if hierarchy is not None else Flat()
        check_fit(backbone, compressor, decoder, hierarchy)
        self.backbone, self.compressor, self.decoder, self.hierarchy = backbone, compressor, decoder, hierarchy
        n_levels = len(self.hierarchy.ratios)
        #: Tells levels apart; nothing at the start, and not there where a hierarchy has one level.
        self.level_embedding = nn.Embedding(n_levels, self.memory_width) if n_levels > 1 else None
        if self.level_embedding is not None:
            nn.init.zeros_(self.level_embedding.weight)
        self.codec = decoder.codec(backbone, compressor)
        self._weight_names = WeightNames()

    def __getattr__(self, name: str) -> Any:
        if name in RENAMED:
            raise AttributeError(f"{type(self).__name__}.{name}: {name!r} is called {RENAMED[name]!r} now")
        return super().__getattr__(name)

    @property
    def memory_width(self) -> int:
        """Numbers of one virtual token: the backbone's width, or more where the compressor keeps more."""
        return self.compressor.memory_width(self.backbone)

    @property
    def fingerprint(self) -> dict[str, str]:
        """Names of backbone, decoder (at its ratio), compressor, adapters and the compressor's weights.

        A memory of another backbone or decoder is refused. One of another compressor can be recalled and not
        read; one of the same class with other settings, other weights or other adapters is read with a warning.
        Adapters that change nothing, such as untrained ones, are ``none``. So is ``prior``, with which earlier versions
        could recall. ``text`` is ``data``: control strings in texts are text (`r3mem.plain_data.text_ids`); memories
        that do not say so may hold control tokens. They are recalled as ever.
        """
        return {
            "backbone": self.backbone.fingerprint,
            "stack": description_digest(*self.codec.identity()),
            "prior": "none",
            "compressor": compressor_name(self.compressor),
            **self._weight_names.of(self.backbone, self.compressor, self.level_embedding, keep=not is_training(self)),
            "text": "data",
        }

    def train(self, mode: bool = True) -> Self:
        """As of any module; what training may change has no kept name afterwards.

        A call that runs in another thread ends in evaluation mode first.
        """
        if mode or is_training(self):
            self._weight_names.forget()
        return super().train(mode)

    @property
    def level_fingerprints(self) -> list[dict[str, str]]:
        """The fingerprint at each level's ratio, coarsest level first: those that the memories of a tree have."""
        found = []
        for ratio in self.hierarchy.ratios:
            with self.at_ratio(ratio):
                found.append(self.fingerprint)
        return found

    def step(
        self, text: Segments, memory: MemoryState | None = None, logits: bool = True, level: int | None = None
    ) -> Step:
        """Retain one segment of each row.

        Args:
            text: The segments.
            memory: What each row remembers so far.
            logits: Whether the forward likelihood is needed.
            level: Level of the segments in the hierarchy; None for the finest.
        """
        with self.backbone.head_apart():
            written = self.compressor(self.backbone, text, memory, logits)
        slots_BKW = written.slots_BKD
        if self.level_embedding is not None:
            level_W = self.level_embedding.weight[-1 if level is None else level]
            slots_BKW = slots_BKW + level_W * self.compressor.slot_mask(text)[..., None]
        return self.bind(text, slots_BKW, written.scores)

    def next_state(self, before: MemoryState | None, own: MemoryState) -> MemoryState:
        """What is remembered after a segment; where the compressor accumulates, what was remembered before it too.

        Args:
            before: What was remembered before the segment, None at the start of a text.
            own: The segment's own finished memory.
        """
        return self.compressor.next_state(self.backbone, before, own)

    def bind(self, text: Segments, slots_BKW: Tensor, scores: Scores | None = None) -> Step:
        """Put the words of a text into slots: they take the first D coordinates, what is beyond them rides along.

        Args:
            text: The segments.
            slots_BKW: The slots as the compressor wrote them.
            scores: Next-token logits that the step is to carry, or what makes them.
        """
        slots_BKD, beyond_BKX = slots_BKW.tensor_split([self.backbone.width], -1)
        slots_BKD = self.decoder.project_off_share(slots_BKD)
        text_BND = self.codec.stream(text)
        residual_BND, memory_BKD = self.decoder.retain(text_BND, slots_BKD, text.lengths_B)
        memory_BKW = torch.cat([memory_BKD, beyond_BKX], -1) if beyond_BKX.shape[-1] else memory_BKD
        return Step(MemoryState(memory_BKW, text.lengths_B, self.ratio), scores, slots_BKD, text_BND, residual_BND)

    def likelihood(self, text: Segments, memory: MemoryState | None = None) -> Tensor:
        """Next-token logits ``BNV`` of a text that follows a memory, nothing written."""
        logits_BNV = self._read(text, None if memory is None else self.compressor.read(memory)).logits_BNV
        assert logits_BNV is not None
        return logits_BNV

    def scores(self, text: Segments, memory: MemoryState | None = None) -> Scores:
        """Those logits, or what makes them: for likelihoods, which need them for a few tokens at a time."""
        with self.backbone.head_apart():
            scores = self._read(text, None if memory is None else self.compressor.read(memory)).scores
        assert scores is not None
        return scores

    def reconstruct(self, text: Segments, memory: MemoryState) -> Pass:
        """The backbone's pass over the text that a memory is of: logits of every token, the first one's apart."""
        with self.backbone.head_apart():
            return self._read(text, self.compressor.read_to_reconstruct(memory))

    def _read(self, text: Segments, prefix: Prefix | None) -> Pass:
        with self.compressor.reading(self.backbone):
            read: Pass = self.backbone(text, prefix)
        return read

    def calibrate(self, ids: Sequence[int] | None = None, segment_tokens: int = 256, segments: int = 64) -> float:
        """Set the start of what is learned from the backbone's own states of sample text.

        Args:
            ids: Token ids of sample text, some ten thousand for a useful start. None takes the reference prose that
                every Python carries.
            segment_tokens: Length of the samples.
            segments: Number of samples.

        Returns:
            Share of variance that reading explains at the start.
        """
        segment_tokens = whole_setting(segment_tokens, "segment_tokens", 1)
        segments = whole_setting(segments, "segments", 1)
        if ids is None:
            ids = self.tokens("\n\n".join(sorted(pydoc_data.topics.topics.values()))[: 8 * segments * segment_tokens])
        rows = [list(ids[i : i + segment_tokens]) for i in range(0, len(ids), segment_tokens)][:segments]
        if not rows:
            raise InputError("calibration needs sample text: give at least one token")
        text = Segments.pad(rows, self.backbone.device)

        with torch.no_grad(), evaluating(self):
            return self.compressor.calibrate(
                self.backbone, text, lambda slots_BKW: self.bind(text, slots_BKW).state.slots_BKD
            )

    def tokens(self, text: Text, before: Sequence[int] = ()) -> list[int]:
        """Token ids of a text, checked to give the text back. Control strings in it are text.

        Args:
            text: A string, or token ids.
            before: Ids of the text that it goes on from, the last few of them.

        Raises:
            InputError: The text is empty, or the tokenizer loses some of it.
        """
        ids = given_text(text)
        if isinstance(ids, str):
            ids = lossless_ids(ids, self.backbone.tokenizer, f"the tokenizer of {self.backbone.name}", before)
        if min(ids) < 0 or max(ids) >= self.backbone.vocabulary:
            raise InputError(f"token ids must lie from 0 to {self.backbone.vocabulary - 1}")
        return list(ids)

    def document(self, ids: Sequence[int]) -> Document:
        """A document of token ids; with its text where the hierarchy has levels, since those are cut by it.

        Raises:
            InputError: The hierarchy has levels, and the ids spell no text.
        """
        if len(self.hierarchy.ratios) == 1:
            return Document(list(ids))
        return Document.of_ids(ids, self.backbone.tokenizer)

    @torch.no_grad()
    def retain_segments(
        self,
        text: Segments,
        memories: Sequence[MemoryState | None],
        precision: Precision = "float16",
        level: int | None = None,
    ) -> list[tuple[MemoryState, Memory]]:
        """Compress one segment of each row and prove that it can be recalled; dropout is the caller's to switch off.

        Args:
            text: The segments.
            memories: What each row is compressed with.
            precision: How the virtual tokens are stored.
            level: Level of the segments in the hierarchy; None for the finest.

        Returns:
            For each row the segment's own state, and the record that is stored.
        """
        step = self.step(text, joined(memories), logits=False, level=level)
        stored = self.stored(step.state.slots_BKD, precision)
        # What is read next is what was stored: to go on from a file changes nothing.
        slots_BKD = dequantise(stored, self.decoder.rotation_DD)
        records = self.codec.recall_records(text, slots_BKD)
        made, fingerprint = [], self.fingerprint
        for i, length in enumerate(text.lengths_B.tolist()):
            state = MemoryState(slots_BKD[i : i + 1], text.lengths_B[i : i + 1], self.ratio)
            made.append((state, record(stored, i, length, self.ratio, records[i], fingerprint)))
        return made

    @torch.no_grad()
    def recall_ids(self, memory: Memory, batch: int = 64) -> list[int]:
        """Token ids of the text that was retained; see :meth:`r3mem.model.R3Mem.recall`.

        Args:
            memory: The memory.
            batch: Segments that are recalled at a time.
        """
        if whole_number(batch, "batch") < 1:
            raise InputError(f"batch {batch} is not possible: recall at least 1 segment at a time")
        ids: list[int] = []
        with self.at_ratio_of(memory), evaluating(self):
            self.check(memory)
            unpacking = self._unpacking()
            for start in range(0, len(memory.lengths_T), batch):
                part = slice(start, start + batch)
                slots_TKD = unpacking.slots(memory, part)
                records = [
                    RecallRecord(packed, digest, 0)
                    for packed, digest in zip(memory.corrections[part], memory.digests[part], strict=True)
                ]
                lengths_T = memory.lengths_T[part].to(slots_TKD.device)
                rows = self.codec.recall(slots_TKD, lengths_T, records)
                ids.extend(token for row_N in rows for token in row_N.tolist())
        return ids

    def stored(self, slots_BKW: Tensor, precision: Precision) -> Quantised:
        """Virtual tokens as they are stored.

        Args:
            slots_BKW: Finished virtual tokens.
            precision: ``float32``, ``float16`` or ``int8``.
        """
        group = self.compressor.scale_group(self.backbone)
        return quantise(slots_BKW, precision, self.decoder.rotation_DD, self.decoder.share_dims, group)

    def state(self, memory: Memory, reach: str = "state") -> MemoryState:
        """A memory as the next segment reads it (``state``), or all of its records one after the other (``records``).

        The state is the last segment's record, or more where the compressor accumulates. Whatever ratio the model is
        at, a memory gives a state of its own ratio, and that is how the state is read.

        Raises:
            FingerprintError: The memory was made by another backbone, stack or compressor, or at a ratio at which this
                model cannot work.
        """
        with self.at_ratio_of(memory):
            self._checked(memory).check_readable(memory)
            if reach == "state":
                return self._unpacking().state(memory, self)
            if reach != "records":
                raise ConfigError(f"reach is 'state' or 'records', not {reach!r}")
            return self._unpacking().records(memory)

    def _unpacking(self) -> Unpacking:
        return Unpacking(self.backbone, self.compressor, self.decoder.rotation_DD)

    def check(self, memory: Memory) -> None:
        """Refuse a memory that this model did not make.

        Raises:
            FingerprintError: Names what differs.
        """
        self._checked(memory)

    def _checked(self, memory: Memory) -> Reader:
        """What checks more of a memory that this model made; its fingerprint is made once for all checks."""
        check_whole(memory)
        if memory.ratio != self.ratio:
            self._refuse_ratio(memory)
        reader = Reader(self.compressor, self.fingerprint, self.memory_width, self.backbone.precision)
        reader.check(memory)
        return reader

    def _refuse_ratio(self, memory: Memory) -> NoReturn:
        """Say what to do with a memory of another ratio, or what else is other than where it was written."""
        told = f"this memory was written at ratio {memory.ratio}, the model is at {self.ratio} here"
        with ExitStack() as stack:
            try:
                stack.enter_context(self.at_ratio(memory.ratio))
            except ConfigError as error:
                raise FingerprintError(
                    f"{told} and cannot work at that one ({error}): load the model that wrote it, or retain the text "
                    "again"
                ) from error
            self.check(memory)
        raise FingerprintError(
            f"{told}, and records of one memory have one ratio: use it inside `with model.at_ratio({memory.ratio}):`, "
            f"or call model.set_ratio({memory.ratio})"
        )

    def check_goes_on(self, memory: Memory, precision: Precision) -> None:
        """Refuse to go on from a memory whose records those of this model cannot follow.

        Raises:
            FingerprintError: It was written by another compressor, or by other settings.
            InputError: It is stored in another precision.
        """
        self._checked(memory).check_goes_on(memory, precision)
