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

import json
import pydoc_data.topics
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn, cast

import torch
from torch import Tensor, nn

from r3mem.backbone import Backbone, Pass
from r3mem.backbone.evaluation_mode import Switched, evaluating, is_training
from r3mem.backbone.next_tokens import Scores, logits_of
from r3mem.backbone.prefix import Prefix
from r3mem.compressors import Compressor, SelectedKeyValues
from r3mem.compressors.ratio_in_force import RATIO_GUARD, AtRatio, having, in_force, put
from r3mem.errors import ConfigError, FingerprintError, InputError
from r3mem.errors.caller_warnings import warn_caller
from r3mem.errors.given_texts import Text, given_text
from r3mem.errors.whole_numbers import whole_number, whole_setting
from r3mem.hierarchy import Document, Flat, Hierarchy, Refined
from r3mem.memory import Memory, MemoryState, Segments, slots_needed
from r3mem.memory.folded import keep
from r3mem.memory.quantise import Precision, Quantised, dequantise, quantise
from r3mem.model.weight_names import WEIGHT_NAMES, KeptName, Weights, acting, name_of
from r3mem.plain_data.by_content import ByContent
from r3mem.plain_data.components import digest, identity
from r3mem.plain_data.lossless_tokens import lossless_ids
from r3mem.recall.base import Proof, TextSide
from r3mem.reversible import Decoder, PositionBinding, ReversibleStack

if TYPE_CHECKING:
    from typing_extensions import Self

LEVELS = "level embedding"
# Parts of a fingerprint that decide whether words come back.
RECALL_NAMES = ("backbone", "stack", "prior")


@dataclass(eq=False, repr=False)
class Step(ByContent):
    """One segment's forward pass.

    Attributes:
        state: The new memory ``V_S``.
        scores: Next-token logits ``BNV`` at the segment given the memory before it, or what makes them, or None.
        slots_BKD: The initial memory stream ``V_0``, off the exact share, as wide as the stack.
        text_BND: The text stream ``U_0``.
        residual_BND: What is left of the text stream after the stack.
    """

    state: MemoryState
    scores: Scores | None
    slots_BKD: Tensor
    text_BND: Tensor
    residual_BND: Tensor

    @property
    def logits_BNV(self) -> Tensor | None:
        """The logits; made when they are first read."""
        return logits_of(self.scores)


@dataclass(frozen=True)
class PartsAtRatio(AtRatio):
    """What of a model goes with its ratio.

    Attributes:
        decoder: The decoder of that ratio.
        exact: What reads words off its memories.
    """

    decoder: Decoder
    exact: TextSide


class SegmentModel(Switched):
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
        _check_kinds(backbone, compressor, decoder, hierarchy)
        if compressor is None:
            compressor = SelectedKeyValues(backbone.width)
        if decoder is None:
            decoder = ReversibleStack([_default_binding(backbone, compressor)])
        if compressor.ratio != decoder.ratio:
            raise ConfigError(
                f"the compressor's ratio is {compressor.ratio}, the decoder's {decoder.ratio}: make them equal"
            )
        for part in (compressor, *getattr(decoder, "couplings", ())):
            width = getattr(part, "width", backbone.width)
            if width != backbone.width:
                raise ConfigError(
                    f"{type(part).__name__} is {width} wide, the backbone {backbone.name} {backbone.width}: "
                    f"set width to {backbone.width}"
                )
        self.backbone, self.compressor, self.decoder = backbone, compressor, decoder
        self.hierarchy = hierarchy if hierarchy is not None else Flat()
        if isinstance(self.hierarchy, Refined) and not compressor.recurrent:
            warn_caller(
                f"{type(compressor).__name__} writes nothing of what it has read, so Refined gives the memories of "
                "MultiLevel: set write_layer above read_layer, or take another compressor"
            )
        n_levels = len(self.hierarchy.ratios)
        #: Tells levels apart; nothing at the start, and not there where a hierarchy has one level.
        self.level_embedding = nn.Embedding(n_levels, self.memory_width) if n_levels > 1 else None
        if self.level_embedding is not None:
            nn.init.zeros_(self.level_embedding.weight)
        self.exact = decoder.text_side(backbone, compressor)
        self._adapters, self._weights = KeptName(), KeptName()

    @property
    def ratio(self) -> int:
        """Text tokens per virtual token."""
        return self.compressor.ratio

    @property
    def memory_width(self) -> int:
        """Numbers of one virtual token: the backbone's width, or more where the compressor keeps more."""
        return self.compressor.memory_width(self.backbone)

    @property
    def _in_force(self) -> PartsAtRatio | None:
        """What the calling thread has instead of the model's own."""
        return cast("PartsAtRatio | None", in_force(self))

    # torch keeps parts in a table of its own; these are asked first, and give a thread's own where it has one.

    @property
    def decoder(self) -> Decoder:
        """The decoder; inside `at_ratio` that of the calling thread."""
        found = self._in_force
        return cast(Decoder, self._modules["decoder"]) if found is None else found.decoder

    @decoder.setter
    def decoder(self, decoder: Decoder) -> None:
        self._modules["decoder"] = decoder

    @property
    def exact(self) -> TextSide:
        """What reads words off memories, exactly or not at all; inside `at_ratio` that of the calling thread."""
        found = self._in_force
        if found is not None:
            return found.exact
        own = self._modules.get("exact")
        return cast(TextSide, self.__dict__["exact"] if own is None else own)

    @exact.setter
    def exact(self, exact: TextSide) -> None:
        self.__dict__["exact"] = exact

    def set_ratio(self, ratio: int) -> None:
        """Compress at another ratio from now on, in every thread; inside `at_ratio` until its end, in this one.

        Nothing that was trained depends on the ratio. Calls that run in other threads end at theirs.

        Raises:
            ConfigError: The decoder cannot work at that ratio; the message says which it can.
        """
        ratio = whole_setting(ratio, "ratio", 1)
        if in_force(self) is not None:
            put((self, self.compressor), self._made_for(ratio))
            return
        decoder = self.decoder.at_ratio(ratio).train(self.decoder.training)
        with RATIO_GUARD:
            self.decoder = decoder
            self.exact.use(decoder)
            self.compressor.ratio = ratio

    @contextmanager
    def at_ratio(self, ratio: int | None) -> Iterator[None]:
        """Inside, compress at another ratio, in this thread alone; None is the ratio there is.

        Memories that exist are read and recalled at their own ratio, inside and outside. A ratio that another thread
        sets meanwhile changes nothing inside. The decoder of another ratio is in the mode (training or not) that the
        model's own has at the beginning.

        Raises:
            ConfigError: The decoder cannot work at that ratio.
        """
        with having((self, self.compressor), self._made_for(ratio)):
            yield

    @contextmanager
    def at_ratio_of(self, memory: Memory) -> Iterator[None]:
        """Inside, the model is at the ratio that a memory was written at; at its own where it cannot be.

        Then `check` refuses the memory and says why.

        Args:
            memory: The memory that is read or recalled.
        """
        try:
            made = self._made_for(getattr(memory, "ratio", None))
        except ConfigError:
            made = self._made_for(None)
        with having((self, self.compressor), made):
            yield

    def _made_for(self, ratio: int | None) -> PartsAtRatio:
        """What of the model goes with a ratio; None for that of now."""
        now = self._in_force
        if now is None:
            with RATIO_GUARD:
                # A text side is changed in place when the ratio is set, so that one's own is a copy.
                now = PartsAtRatio(self.compressor.ratio, self.decoder, self.exact.at(self.decoder))
        ratio = None if ratio is None else whole_setting(ratio, "ratio", 1)
        if ratio is None or ratio == now.ratio:
            return now
        decoder = now.decoder.at_ratio(ratio).train(now.decoder.training)
        return PartsAtRatio(ratio, decoder, now.exact.at(decoder))

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
            "stack": digest(*self.exact.identity()),
            "prior": "none",
            "compressor": self._compressor_name(),
            **self._weight_names(),
            "text": "data",
        }

    def _weight_names(self) -> dict[str, str]:
        """Of `WEIGHT_NAMES`; kept while nothing trains."""
        compressor, keep = [self.compressor, self.level_embedding], not is_training(self)
        return {
            "adapters": self._adapters.of([self.backbone], self._adapter_weights, self._adapters_name, keep),
            "weights": self._weights.of(compressor, self._compressor_weights, _weights_name, keep),
        }

    def train(self, mode: bool = True) -> Self:
        """As of any module; what training may change has no kept name afterwards.

        A call that runs in another thread ends in evaluation mode first.
        """
        if mode or is_training(self):
            self._adapters.forget()
            self._weights.forget()
        return super().train(mode)

    def _adapter_weights(self) -> Weights:
        return dict(self.backbone.adapter_parameters())

    def _adapters_name(self, adapters: Weights) -> str:
        rank = max(1, self.backbone.lora_rank)
        return name_of(acting(adapters.items()), str(self.backbone.lora_alpha / rank))

    def _compressor_weights(self) -> Weights:
        levels = {} if self.level_embedding is None else {LEVELS: self.level_embedding.weight}
        return {**self.compressor.state_dict(keep_vars=True), **levels}

    def _compressor_name(self) -> str:
        """Class and settings as JSON, but for those that say nothing of what a slot holds."""
        described = identity(self.compressor)
        left_out = self.compressor.state_settings
        settings = {key: value for key, value in described["init_args"].items() if key not in left_out}
        return json.dumps({"class": described["class_path"], **settings}, sort_keys=True)

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

    def bind(self, text: Segments, slots_BKW: Tensor, scores: Scores | None = None) -> Step:
        """Put the words of a text into slots: they take the first D coordinates, what is beyond them rides along.

        Args:
            text: The segments.
            slots_BKW: The slots as the compressor wrote them.
            scores: Next-token logits that the step is to carry, or what makes them.
        """
        slots_BKD, beyond_BKX = slots_BKW.tensor_split([self.backbone.width], -1)
        slots_BKD = self.decoder.exclusive(slots_BKD)
        text_BND = self.exact.stream(text)
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

    def spelling(self, text: Segments, memory: MemoryState) -> Pass:
        """The backbone's pass over the text that a memory is of: logits of every token, the first one's apart."""
        with self.backbone.head_apart():
            return self._read(text, self.compressor.spell(memory))

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
        proofs = self.exact.prove(text, slots_BKD)
        made, fingerprint = [], self.fingerprint
        for i, length in enumerate(text.lengths_B.tolist()):
            state = MemoryState(slots_BKD[i : i + 1], text.lengths_B[i : i + 1], self.ratio)
            made.append((state, self._record(stored, i, length, proofs[i], fingerprint)))
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
            for start in range(0, len(memory.lengths_T), batch):
                part = slice(start, start + batch)
                slots_TKD = self._slots(memory, part)
                proofs = [
                    Proof(packed, digest, 0)
                    for packed, digest in zip(memory.corrections[part], memory.digests[part], strict=True)
                ]
                lengths_T = memory.lengths_T[part].to(slots_TKD.device)
                rows = self.exact.recall(slots_TKD, lengths_T, proofs)
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
            self.check(memory)
            self._check_readable(memory)
            if reach == "state":
                return self._state(memory)
            if reach != "records":
                raise ConfigError(f"reach is 'state' or 'records', not {reach!r}")
            slots_TKD = self._finite_slots(memory, slice(None))
        used = [slots_TKD[t : t + 1, : slots_needed(n, memory.ratio)] for t, n in enumerate(memory.lengths_T.tolist())]
        return MemoryState.one_after_the_other(used, memory.ratio)

    def _state(self, memory: Memory) -> MemoryState:
        """The state after the last record, from where a memory holds on to the state after some of them."""
        count = len(memory.digests)
        if not self.compressor.accumulates:
            return self._gone_on(memory, None, count - 1)
        # Of the stack's name `check` has found that it is ours.
        settings = json.dumps([memory.fingerprint["stack"], identity(self.compressor), str(self.backbone.device),
                               memory.ratio, memory.share_dims, memory.precision, memory.scale_group,
                               [p._version for p in self.compressor.parameters()]])  # fmt: skip
        folded, before, first = memory.folded, None, 0
        if folded is not None and folded.maker() is self and folded.settings == settings and folded.count <= count:
            before = folded.still(memory.sources)
            first = 0 if before is None else folded.count
        state = self._gone_on(memory, None if before is None else replace(before), first)
        if before is None or first < count:
            own = [t for t in (state.slots_BKD, state.lengths_B, state.segment_BK) if t is not None]
            memory.folded = keep(replace(state), count, weakref.ref(self), settings, memory.sources, own)
        return state

    def _gone_on(self, memory: Memory, state: MemoryState | None, first: int) -> MemoryState:
        """The state after the last record, from the one after the records before ``first``."""
        for t in range(first, len(memory.digests)):
            lengths_B = memory.lengths_T[t : t + 1].to(self.backbone.device)
            slots_BKD = self._finite_slots(memory, slice(t, t + 1))[:, : slots_needed(int(lengths_B), memory.ratio)]
            state = self.compressor.next_state(self.backbone, state, MemoryState(slots_BKD, lengths_B, memory.ratio))
        assert state is not None
        return state

    def check(self, memory: Memory) -> None:
        """Refuse a memory that this model did not make.

        Raises:
            FingerprintError: Names what differs.
        """
        if not isinstance(memory, Memory):
            raise InputError(
                f"a memory of a text is a Memory, not {type(memory).__name__}: retain or Memory.load gives one"
            )
        wrong = memory.fault()
        if wrong:
            raise InputError(f"the memory was changed after it was made, {wrong}: load it again, or retain its text")
        if memory.ratio != self.ratio:
            self._refuse_ratio(memory)
        own = self.fingerprint
        for part in RECALL_NAMES:
            value = own[part]
            if memory.fingerprint.get(part) != value:
                if part == "prior":
                    raise FingerprintError(
                        "this memory needs the LanguageModelPrior with which it was made, and this version has none: "
                        "recall its text with the version that made it, then retain it again"
                    )
                raise FingerprintError(
                    f"this memory was made by another {part} ({memory.fingerprint.get(part)}, here {value}; its ratio "
                    f"is {memory.ratio}; the backbone computes in {self.backbone.precision} here): "
                    "load the model that made it, or retain the text again"
                )
        width = memory.data_TKD.shape[-1]
        if width != self.memory_width:
            raise FingerprintError(
                f"this memory's virtual tokens are {width} wide, those of {type(self.compressor).__name__} "
                f"{self.memory_width}: it is of another compressor; load the model that made it"
            )

    def _refuse_ratio(self, memory: Memory) -> NoReturn:
        """Say what to do with a memory of another ratio, or what else is other than where it was written."""
        told = f"this memory was written at ratio {memory.ratio}, the model is at {self.ratio} here"
        try:
            made = self._made_for(memory.ratio)
        except ConfigError as error:
            raise FingerprintError(
                f"{told} and cannot work at that one ({error}): load the model that wrote it, or retain the text again"
            ) from error
        with having((self, self.compressor), made):
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
        self.check(memory)
        if not set(WEIGHT_NAMES) <= set(memory.fingerprint):
            raise FingerprintError(
                "this memory is of an earlier version and does not say which adapters wrote it, so nothing can follow "
                "it: recall its text and retain it again"
            )
        differing = [*self._differing(memory), *self._other_weights(memory)]
        if differing:
            raise FingerprintError(
                f"this memory was written with other {', '.join(differing)}: retain its text again "
                "to go on from it, or build the model with the settings that wrote it"
            )
        if memory.precision != precision:
            raise InputError(
                f"this memory is stored in {memory.precision}, what follows it would be in {precision}: "
                f"give precision={memory.precision!r}"
            )

    def _differing(self, memory: Memory) -> list[str]:
        """Names of the compressor's settings that differ from those that wrote a memory."""
        found, name = memory.fingerprint.get("compressor"), self._compressor_name()
        if found is None or found == name:
            return []
        theirs, own = json.loads(found), json.loads(name)
        return [key for key in {**own, **theirs} if own.get(key) != theirs.get(key)]

    def _other_weights(self, memory: Memory) -> list[str]:
        """Which of `WEIGHT_NAMES` differ from those that wrote a memory, as far as it says."""
        own = self._weight_names()
        return [part for part in WEIGHT_NAMES if memory.fingerprint.get(part, own[part]) != own[part]]

    def _check_readable(self, memory: Memory) -> None:
        """Refuse a memory of another compressor, warn of one of other settings, weights or adapters.

        Raises:
            FingerprintError: The memory was written by another class, or to be read in another way.
        """
        differing = self._differing(memory)
        otherwise = [name for name in self.compressor.reading_settings if name in differing]
        if "class" in differing or otherwise:
            theirs = json.loads(memory.fingerprint["compressor"])
            what = theirs["class"].rpartition(".")[2]
            if "class" not in differing:
                what = f"the same with other {', '.join(otherwise)}"
            raise FingerprintError(
                f"this memory was written by {what}, and this {type(self.compressor).__name__} cannot read it; its "
                "text can be recalled: load the model that wrote it, or retain the text again"
            )
        if differing:
            warn_caller(
                f"this memory was written with another {', '.join(differing)} of {type(self.compressor).__name__}: "
                "it is read as it was written"
            )
        others = self._other_weights(memory)
        if others:
            named = " and ".join("adapters" if o == "adapters" else "weights of the compressor" for o in others)
            warn_caller(
                f"this memory was written with other {named} than those that read it now, and answers may be worse: "
                "load the model that wrote it, or recall its text and retain it again"
            )

    def _finite_slots(self, memory: Memory, part: slice) -> Tensor:
        """Slots as they are read; recall finds out by digests.

        Raises:
            InputError: They hold NaN or infinity.
        """
        slots_TKD = self._slots(memory, part)
        if not bool(torch.isfinite(slots_TKD).all()):
            raise InputError(
                "the memory's virtual tokens hold NaN or infinity, so it was changed after it was made: load it again, "
                "or retain its text again"
            )
        return slots_TKD

    def _slots(self, memory: Memory, part: slice) -> Tensor:
        stored = Quantised(
            memory.data_TKD[part].to(self.backbone.device), memory.share_scale_TK[part].to(self.backbone.device),
            memory.rest_scale_TK[part].to(self.backbone.device), memory.precision, memory.share_dims,  # type: ignore[arg-type]
            memory.scale_group,
        )  # fmt: skip
        return dequantise(stored, self.decoder.rotation_DD)

    def _record(self, stored: Quantised, i: int, length: int, proof: Proof, fingerprint: dict[str, str]) -> Memory:
        n_slots = slots_needed(length, self.ratio)
        return Memory(
            data_TKD=stored.data[i : i + 1, :n_slots].cpu(),
            share_scale_TK=stored.share_scale_BK[i : i + 1, :n_slots].cpu(),
            rest_scale_TK=stored.rest_scale_BK[i : i + 1, :n_slots].cpu(),
            precision=stored.precision, share_dims=stored.share_dims, lengths_T=torch.tensor([length]),
            ratio=self.ratio, corrections=[proof.packed], digests=[proof.digest], fingerprint=fingerprint,
            wrong=[proof.wrong], scale_group=stored.group,
        )  # fmt: skip


def _check_kinds(backbone: object, *others: object) -> None:
    """Refuse a part that stands in the place of another, or is none.

    Raises:
        ConfigError: Says which, and what belongs there.
    """
    kinds = {"backbone": Backbone, "compressor": Compressor, "decoder": Decoder, "hierarchy": Hierarchy}
    for (name, kind), part in zip(kinds.items(), (backbone, *others), strict=True):
        if part is not None and not isinstance(part, kind):
            raise ConfigError(
                f"the {name} is a {kind.__name__}, not {type(part).__name__}: give one, or leave it out for the default"
            )


def _weights_name(weights: Weights) -> str:
    # At 0 the levels' embeddings do nothing, as where there is one level.
    return name_of({name: tensor for name, tensor in weights.items() if name != LEVELS or tensor.any()})


def _default_binding(backbone: Backbone, compressor: Compressor) -> PositionBinding:
    """Where keys and values are read, words are few, quiet, and in the last layer's keys first."""
    if compressor.memory_width(backbone) == backbone.width:
        return PositionBinding(backbone.width, compressor.ratio)
    layout = backbone.key_values
    return PositionBinding(
        backbone.width, compressor.ratio, share=0.9, token_dims=5, block=layout.heads * layout.head_width,
        amplitude=0.1,
    )  # fmt: skip


def joined(states: Sequence[MemoryState | None]) -> MemoryState | None:
    """One state of several rows, slots padded to the longest; None if no row holds anything.

    Raises:
        InputError: Their ratios differ: the rows of one state are read at one.
    """
    held = [s for s in states if s is not None]
    if not held:
        return None
    if len({state.ratio for state in held}) > 1:
        raise InputError(f"states of the ratios {sorted({s.ratio for s in held})} are no one state: read each apart")
    n_slots, device = max(s.slots_BKD.shape[1] for s in held), held[0].slots_BKD.device
    slots_BKD = held[0].slots_BKD.new_zeros(len(states), n_slots, held[0].slots_BKD.shape[2])
    lengths_B = torch.zeros(len(states), dtype=torch.long, device=device)
    segment_BK = torch.zeros(len(states), n_slots, dtype=torch.long, device=device)
    for b, state in enumerate(states):
        if state is not None:
            slots_BKD[b, : state.slots_BKD.shape[1]] = state.slots_BKD[0]
            lengths_B[b] = state.lengths_B[0]
            if state.segment_BK is not None:
                segment_BK[b, : state.slots_BKD.shape[1]] = state.segment_BK[0]
    several = any(state.segment_BK is not None for state in held)
    return MemoryState(slots_BKD, lengths_B, held[0].ratio, segment_BK if several else None)
