r"""Keys and values that the backbone computed itself, those kept that its attention used most.

Shape legend: B batch, M memory positions, N text tokens, S = M + N, K slots, L layers, H heads of keys and values,
E width of a head, X = L * H, W = 2 * L * H * E + X numbers of a slot.

One ordinary pass over ``[memory ; text]`` is observed. Every layer and head keeps the positions that score highest, in
their order; slot k is the k-th that each kept, and which token that was differs from head to head::

    text           x0  x1  x2  x3  x4  x5  x6  x7
    head 0 keeps   x0      x2              x6            slot 0, 1, 2
    head 1 keeps   x0              x4          x7        slot 0, 1, 2
    read at        0, 1, 2, and what follows from 3 on

Keys are kept as they are at position 0 (`r3mem.backbone.key_values`) and read without a gap: a memory costs K positions
however long its text was, and a stream of any length never leaves the model's window.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import ClassVar, Literal

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.backbone.attention import Observed, last_of
from r3mem.backbone.key_values import KeyValueLayout
from r3mem.backbone.merged_attention import merged, without_values
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.base import Compressor, Written
from r3mem.compressors.parts.key_value_slots import key_value_prefix
from r3mem.compressors.scorers import AttentionReceived, DistantAttention, Scorer, SumOfScorers
from r3mem.errors import ConfigError, InputError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import MemoryState, Segments, slots_needed

# Worth of a sink, of a copy of an earlier segment's sink, and of what was never looked at: logarithms of shares of the
# mean. Copies are read where a record is read alone, and left out where the sinks themselves are there.
SINK, COPY, LEAST = 32.0, 48.0, -16.0


class SelectedKeyValues(Compressor):
    """Slots are the keys and values of chosen positions; nothing is trained before first use.

    The state holds the slots of all segments side by side, up to ``max_slots``. From then on old and new slots compete
    for their places in each head, by what they were worth when they were written: a state of constant size.

    With learned positions (GPT-2) keys cannot be turned: slots carry the positions they were written at, and are read
    in front of a text that begins at position K.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        scorer: What a position is worth; None takes attention received and distant attention, each normalised.
        sharing: Whether every head of a layer keeps positions of its own (``head``), all heads of a layer the same
            (``layer``), or all layers the same (``all``).
        positions: ``compact`` reads slots at positions 0 to K - 1; ``original`` where their tokens stood, which serves
            a single segment only.
        sinks: First positions that are always kept; without them a model reads nothing well. At most half the slots.
        recent: Share of the slots that is kept for the last positions, whatever they are worth.
        max_slots: Slots that a state holds at most.
        decay: Factor of a slot's worth for each segment that came after its own. At 1 a full state keeps what was
            once looked at most, and falls behind as many raw last tokens in a long stream.
        layer_share: Share of the layers, from the lowest, whose keys and values are kept; the layers above read nothing
            of a memory. A slot is narrower by it. With 0.5 and few slots this is the explicit memory of Memory^3.

    Where this differs from Memory^3 (2407.01178), which has explicit memories in the first half of its layers, 8 of 128
    tokens a head. Its model is trained from scratch to read them; here a frozen one reads. It keeps a bank of
    references and retrieves some anew every few tokens; here the segments of the text itself are read, and a state
    holds them side by side. Its memories are vector-quantised; here they are stored as `R3Mem` stores any memory
    (``precision``), so that its figures of bytes do not carry over.
    Untrained, SmolLM2-135M read such a memory worse than nothing (one text, 512 tokens at ratio 8): the layers above
    may lack a sink. So it needs training.
    """

    accumulates: ClassVar[bool] = True
    state_settings: ClassVar[tuple[str, ...]] = ("ratio", "max_slots", "decay")
    reading_settings: ClassVar[tuple[str, ...]] = ("positions", "layer_share")

    def __init__(
        self,
        width: int,
        ratio: int = 8,
        scorer: Scorer | None = None,
        sharing: Literal["head", "layer", "all"] = "head",
        positions: Literal["compact", "original"] = "compact",
        sinks: int = 4,
        recent: float = 0.125,
        max_slots: int = 1024,
        decay: float = 0.5,
        layer_share: float = 1.0,
    ) -> None:
        super().__init__(ratio)
        if sharing not in ("head", "layer", "all") or positions not in ("compact", "original"):
            raise ConfigError(
                f"sharing {sharing!r} and positions {positions!r}: give head, layer or all, and compact or original"
            )
        sinks, max_slots = whole_setting(sinks, "sinks"), whole_setting(max_slots, "max_slots")
        if sinks < 0 or not 0 <= recent < 1 or not 0 < decay <= 1 or max_slots < 1:
            raise ConfigError(
                f"sinks {sinks}, recent {recent}, decay {decay} and max_slots {max_slots} are not possible: sinks from "
                "0, recent from 0 to below 1, decay above 0 and at most 1, at least 1 slot"
            )
        if not 0 < layer_share <= 1:
            raise ConfigError(f"layer_share {layer_share} is not possible: give a share above 0, at most 1")
        if scorer is None:
            scorer = SumOfScorers([AttentionReceived(), DistantAttention()], sinks=sinks)
        self.width, self.scorer, self.sharing, self.positions = width, scorer, sharing, positions
        self.sinks, self.recent, self.max_slots, self.decay = sinks, recent, max_slots, decay
        self.layer_share = layer_share

    @property
    def state_slots(self) -> int | None:
        """See :attr:`Compressor.state_slots`."""
        return self.max_slots

    def memory_width(self, backbone: Backbone) -> int:
        """W: keys and values of a slot, and what each was worth; see :meth:`Compressor.memory_width`."""
        layout = self._layout(backbone)
        if layout.width < backbone.width:
            raise ConfigError(
                f"keys and values of {layout.layers} layers are {layout.width} numbers, fewer than the "
                f"{backbone.width} that words need: raise layer_share, or take a compressor of hidden states"
            )
        return layout.width + layout.layers * layout.heads

    def scale_group(self, backbone: Backbone) -> int:
        """One scale for each layer, head and kind; see :meth:`Compressor.scale_group`."""
        return backbone.key_values.head_width

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`.

        Raises:
            InputError: Memory and text together are longer than the model's positions.
            ConfigError: The model's attention cannot be observed, or original positions of several segments.
        """
        if memory is not None and self.positions == "original" and bool((memory.lengths_B > 0).any()):
            raise ConfigError(
                "positions 'original' serve a text of one segment only: make segments longer, or take 'compact'"
            )
        prefix = None if memory is None else self.read(memory)
        # Likelihoods that only the scorer needs are of a few tokens at a time.
        with nullcontext() if logits else backbone.head_apart():
            out = backbone(text, prefix, logits=logits or self.scorer.needs_logits, observe=True)
            assert out.attention is not None
            slots_BKW = self.select(backbone, out.attention)
        return Written(slots_BKW, out.scores if logits else None)

    def select(self, backbone: Backbone, observed: Observed, scores_BLHS: Tensor | None = None) -> Tensor:
        """The slots ``BKW`` of a pass that was observed.

        Args:
            backbone: The language model.
            observed: The pass.
            scores_BLHS: What its positions are worth; None asks the scorer.
        """
        scores_BLHS = self.scorer(observed) if scores_BLHS is None else scores_BLHS
        layout = self._layout(backbone)
        index_BLHK, worth_BLHK = self._chosen(observed, scores_BLHS[:, : layout.layers])
        pairs = [(layer.keys_BHSE, layer.values_BHSE) for layer in observed.layers[: layout.layers]]
        positions_BS = observed.positions_BS if self.positions == "compact" else None
        slots_BKV = layout.selected(pairs, index_BLHK, positions_BS)
        # The last layer stands first, as in `KeyValueLayout`.
        worth_BKX = worth_BLHK.flip(1).permute(0, 3, 1, 2).flatten(2)
        return torch.cat([slots_BKV, worth_BKX], -1) * self.slot_mask(observed.text)[..., None]

    def read(self, memory: MemoryState) -> Prefix:
        """See :meth:`Compressor.read`."""
        return self._prefix(memory, memory.slots_BKD, self._readable(memory))

    def _prefix(self, memory: MemoryState, slots_BKW: Tensor, mask_BK: Tensor) -> Prefix:
        """Some slots of a memory, to be read in front of a text."""
        prefix = key_value_prefix(slots_BKW, mask_BK, self.width)
        prefix.layer_share = self.layer_share
        if self.positions == "original":
            # Keys stand in the slots as they were, so nothing is turned.
            prefix.positions_BP, prefix.start_B = torch.zeros_like(prefix.positions_BP), memory.lengths_B
        return prefix

    def next_state(self, backbone: Backbone, before: MemoryState | None, written: MemoryState) -> MemoryState:
        """All slots side by side while they fit, then in each head those that are worth most; see the class."""
        if before is None:
            before = MemoryState(written.slots_BKD[:, :0], torch.zeros_like(written.lengths_B), written.ratio)
        layout = self._layout(backbone)
        both_BJW = torch.cat([before.slots_BKD, written.slots_BKD], 1)
        worth_BJX = both_BJW[..., layout.width :]
        old_BJ = torch.arange(both_BJW.shape[1], device=both_BJW.device) < before.slots_BKD.shape[1]
        begun_B1 = (before.lengths_B > 0)[:, None]
        copy_BJ = (worth_BJX[..., 0] > (SINK + COPY) / 2) & ~old_BJ & begun_B1
        valid_BJ = torch.cat([before.mask_BK, written.mask_BK], 1) & ~copy_BJ
        # A text that does not go on from the state has sinks of its own: here they are tokens as any.
        sink_BJ = (worth_BJX[..., 0] > SINK / 2) & (old_BJ | ~begun_B1)
        own_BJ = (worth_BJX[..., 0] > SINK / 2) & ~sink_BJ
        aged_BJX = torch.where(own_BJ[..., None], 0.0, worth_BJX.clamp(max=SINK))
        aged_BJX = aged_BJX + math.log(self.decay) * (old_BJ & ~sink_BJ)[..., None]
        # Never more than half of the model's window: a segment needs room behind its memory.
        count_B = valid_BJ.sum(1)
        kept_B = count_B.clamp(max=min(self.max_slots, max(1, backbone.max_positions // 2)))
        rank_BJX = self._ranked(aged_BJX, valid_BJ, sink_BJ, kept_B)
        aged_BJW = torch.cat([both_BJW[..., : layout.width], aged_BJX], -1)
        return self._fewer(layout, aged_BJW, rank_BJX, valid_BJ, sink_BJ, kept_B, written.ratio)

    def fewer(self, backbone: Backbone, memory: MemoryState, slots: int) -> MemoryState | None:
        """In each head the slots that are worth most, sinks above all; see :meth:`Compressor.fewer`."""
        if self.positions == "original":
            return None
        layout, readable_BM = self._layout(backbone), self._readable(memory)
        worth_BMX = memory.slots_BKD[..., layout.width :]
        sink_BM, kept_B = worth_BMX[..., 0] > SINK / 2, readable_BM.sum(1).clamp(max=slots)
        rank_BMX = self._ranked(worth_BMX.clamp(max=SINK), readable_BM, sink_BM, kept_B)
        return self._fewer(layout, memory.slots_BKD, rank_BMX, readable_BM, sink_BM, kept_B, memory.ratio)

    def _ranked(self, worth_BJX: Tensor, valid_BJ: Tensor, sink_BJ: Tensor, kept_B: Tensor) -> Tensor:
        """Rank ``BJX`` of slots by their worth, a share of the places being for the last."""
        recent_B = (self.recent * kept_B).long()
        last_BJ = valid_BJ & last_of(valid_BJ, recent_B[:, None]) & ~sink_BJ
        return torch.where(last_BJ[..., None], SINK - 1, worth_BJX)

    @torch.no_grad()
    def choose(self, backbone: Backbone, memory: MemoryState, query: Segments, slots: int) -> MemoryState:
        """In each head the slots that a query attends to most, in their order; see :meth:`Compressor.choose`.

        Slots that do not fit the model's positions together are looked at in several passes (`merged`).
        """
        if slots < 1:
            raise ConfigError(f"slots {slots} is not possible: read at least 1")
        layout, readable_BM = self._layout(backbone), self._readable(memory)
        sink_BM = memory.slots_BKD[..., layout.width] > SINK / 2
        received_BLHM = self._shared(self._looked_at(backbone, memory, query, readable_BM, sink_BM & readable_BM))
        rank_BMX = received_BLHM.flip(1).flatten(1, 2).transpose(1, 2)
        kept_B = readable_BM.sum(1).clamp(max=slots)
        return self._fewer(layout, memory.slots_BKD, rank_BMX, readable_BM, sink_BM, kept_B, memory.ratio)

    def _looked_at(
        self, backbone: Backbone, memory: MemoryState, query: Segments, readable_BM: Tensor, sink_BM: Tensor
    ) -> Tensor:
        """Attention ``BLHM`` of a query to the slots, in as many passes as they need; the sinks stand in each.

        Args:
            backbone: The language model.
            memory: The slots.
            query: What looks at them.
            readable_BM: Which are read.
            sink_BM: Which are sinks.

        Raises:
            InputError: The query alone is as long as the model's positions.
        """
        n_slots, n_query = readable_BM.shape[1], query.ids_BN.shape[1]
        room, front = backbone.max_positions - n_query, 0
        parts = [(0, n_slots, readable_BM)]
        if int(readable_BM.sum(1).max()) > room:
            # Of several texts side by side the first one's serve.
            sink_BM = sink_BM & (sink_BM.cumsum(1) <= self.sinks)
            front = int(sink_BM.any(0).nonzero().max()) + 1 if bool(sink_BM.any()) else 0
            if room <= front:
                raise InputError(
                    f"a query of {n_query} tokens leaves no room for slots in the {backbone.max_positions} positions "
                    f"of {backbone.name}: choose by fewer of its last words"
                )
            ends = [(first, min(first + room - front, n_slots)) for first in range(0, n_slots, room - front)]
            rest_BM = readable_BM & ~sink_BM
            parts = [(a, b, torch.cat([sink_BM[:, :front], rest_BM[:, a:b]], 1)) for a, b in ends]
        passes, apart = [], []
        for first, end, mask_BM in parts:
            slots_BMW = torch.cat([memory.slots_BKD[:, :front], memory.slots_BKD[:, first:end]], 1)
            observed = backbone(query, self._prefix(memory, slots_BMW, mask_BM), logits=False, observe=True).attention
            assert observed is not None
            passes.append(without_values(observed))
            apart.append(torch.nn.functional.pad(mask_BM[:, front:], (front, 0)))
        received = merged(passes, apart, self._layout(backbone).layers)
        return torch.cat([part_BLHM[..., front:] for part_BLHM in received], -1)

    def _fewer(
        self, layout: KeyValueLayout, slots_BJW: Tensor, rank_BJX: Tensor, valid_BJ: Tensor, sink_BJ: Tensor,
        kept_B: Tensor, ratio: int,
    ) -> MemoryState:  # fmt: skip
        """In each head those slots that rank highest, in their order; sinks above all.

        Args:
            layout: Of the slots.
            slots_BJW: Slots to choose from.
            rank_BJX: Rank of each in each head.
            valid_BJ: True where a slot is in use.
            sink_BJ: Which are sinks.
            kept_B: How many each row keeps.
            ratio: Text tokens per slot.

        Raises:
            ConfigError: Slots are dropped that are read where their tokens stood: how many those were would be lost.
        """
        if self.positions == "original" and bool((kept_B < valid_BJ.sum(1)).any()):
            raise ConfigError("positions 'original' read all slots of their segment: raise max_slots or slots")
        n_kept, (n_batch, n_slots) = max(1, int(kept_B.max())), slots_BJW.shape[:2]
        rank_BJX = torch.where(valid_BJ[..., None], _sinks_first(rank_BJX, sink_BJ & valid_BJ, kept_B), -torch.inf)
        index_BXK = _first_in_order(rank_BJX.transpose(1, 2), kept_B, n_kept)
        # Keys and values of each layer and head side by side, and what they are worth behind them.
        by_layer = slots_BJW[..., : layout.width].reshape(n_batch, n_slots, layout.layers, 2, layout.heads, -1)
        heads_BXJY = by_layer.transpose(3, 4).reshape(n_batch, n_slots, rank_BJX.shape[2], -1).transpose(1, 2)
        worth_BXJ1 = slots_BJW[..., layout.width :].transpose(1, 2)[..., None]
        heads_BXJY = torch.cat([heads_BXJY, worth_BXJ1], -1)
        taken_BXKY = heads_BXJY.gather(2, index_BXK[..., None].expand(-1, -1, -1, heads_BXJY.shape[-1]))
        taken_BKXY = taken_BXKY.transpose(1, 2)
        layered = taken_BKXY[..., :-1].reshape(n_batch, n_kept, layout.layers, layout.heads, 2, -1).transpose(3, 4)
        slots_BKW = torch.cat([layered.reshape(n_batch, n_kept, -1), taken_BKXY[..., -1]], -1)
        slots_BKW = slots_BKW * (torch.arange(n_kept, device=kept_B.device) < kept_B[:, None])[..., None]
        return MemoryState(slots_BKW, kept_B * ratio, ratio)

    def _layout(self, backbone: Backbone) -> KeyValueLayout:
        """How slots hold the keys and values of the layers that have memories."""
        return backbone.key_values.lowest(self.layer_share)

    def _readable(self, memory: MemoryState) -> Tensor:
        """``bool BK``: slots to be read, of segments side by side the sinks of the first alone."""
        mask_BK = memory.mask_BK
        if memory.segment_BK is None:
            return mask_BK
        copy_BK = memory.slots_BKD[..., -1] > (SINK + COPY) / 2
        return mask_BK & ~(copy_BK & (memory.segment_BK > 0))

    def _shared(self, scores_BLHS: Tensor) -> Tensor:
        """Scores of heads that choose together are their mean."""
        if self.sharing == "layer":
            return scores_BLHS.mean(2, keepdim=True).expand_as(scores_BLHS)
        if self.sharing == "all":
            return scores_BLHS.mean((1, 2), keepdim=True).expand_as(scores_BLHS)
        return scores_BLHS

    def _chosen(self, observed: Observed, scores_BLHS: Tensor) -> tuple[Tensor, Tensor]:
        """Which positions each head keeps, in order, and what they are worth: ``BLHK`` both."""
        text = observed.text
        n_memory, n_keys, future = observed.n_memory, observed.valid_BS.shape[1], self.scorer.future
        slots_B = (text.lengths_B + self.ratio - 1) // self.ratio
        n_slots = max(1, slots_needed(text.ids_BN.shape[1], self.ratio))
        if not bool(torch.isfinite(scores_BLHS).all()):
            raise InputError("the scores of a text's positions hold NaN or infinity: the model or the scorer diverged")
        scores_BLHS = self._shared(scores_BLHS)
        # Behind a memory the sinks are copies, which say nothing of the segment: a single slot is the segment's.
        behind_B = observed.valid_BS[:, :n_memory].any(1)
        sinks_B = torch.where(behind_B, slots_B // 2, (slots_B + 1) // 2).clamp(max=self.sinks)
        # The first positions in use: the memory's, or the text's where there is no memory.
        place_S = torch.arange(n_keys, device=slots_B.device) - n_memory
        sink_BS = observed.valid_BS & (observed.rank_BS < sinks_B[:, None]) & ((place_S < 0) | ~behind_B[:, None])
        kept_BS = observed.valid_BS & (place_S >= 0) & (place_S < (text.lengths_B - future)[:, None])
        recent_B = (self.recent * slots_B).long()
        last_BS = kept_BS & (place_S >= (text.lengths_B - future - recent_B)[:, None])
        mean_BLH1 = (scores_BLHS * kept_BS[:, None, None]).sum(-1, keepdim=True) / kept_BS.sum(1).clamp(min=1)[
            :, None, None, None
        ]
        worth_BLHS = (scores_BLHS / mean_BLH1.clamp(min=1e-12)).clamp(min=1e-30).log().clamp(LEAST, SINK / 2 - 1)
        worth_BLHS = torch.where(sink_BS[:, None, None], torch.where(place_S < 0, COPY, SINK), worth_BLHS)
        rank_BLHS = torch.where(last_BS[:, None, None], torch.clamp(worth_BLHS, min=SINK / 2), worth_BLHS)
        rank_BLHS = torch.where((kept_BS | sink_BS)[:, None, None], rank_BLHS, -torch.inf)
        index_BLHK = _first_in_order(rank_BLHS.flatten(1, 2), slots_B, n_slots).view(*rank_BLHS.shape[:3], n_slots)
        return index_BLHK, worth_BLHS.gather(-1, index_BLHK)


def _sinks_first(rank_BJX: Tensor, sink_BJ: Tensor, kept_B: Tensor) -> Tensor:
    """Ranks with the sinks above everything, the first above the others; those beyond half of the places below all.

    Args:
        rank_BJX: What is ranked; a sink's own rank is not asked for.
        sink_BJ: Which are sinks.
        kept_B: How many places there are.
    """
    number_BJ = sink_BJ.cumsum(1)
    forced_BJ = sink_BJ & (number_BJ <= ((kept_B + 1) // 2)[:, None])
    rank_BJX = torch.where(forced_BJ[..., None], (SINK + 1.0 / number_BJ.clamp(min=1))[..., None], rank_BJX)
    return torch.where((sink_BJ & ~forced_BJ)[..., None], -1e6, rank_BJX)


def _first_in_order(rank_BXS: Tensor, count_B: Tensor, most: int) -> Tensor:
    """Places of the highest of each row, in rising order, ``BX most``; of a row of fewer the rest are places of 0.

    Equal ranks go to the later place, so that a text is chosen from alike alone and beside others.

    Args:
        rank_BXS: What is ranked.
        count_B: How many each row takes.
        most: The largest number of them.
    """
    n_places = rank_BXS.shape[-1]
    order_BXS = rank_BXS.flip(-1).argsort(dim=-1, descending=True, stable=True)[..., : min(most, n_places)]
    index_BXK = n_places - 1 - order_BXS
    outside_K = torch.arange(index_BXK.shape[-1], device=count_B.device) >= count_B[:, None, None]
    index_BXK = index_BXK.masked_fill(outside_K, n_places).sort(-1).values
    if index_BXK.shape[-1] < most:
        index_BXK = torch.nn.functional.pad(index_BXK, (0, most - index_BXK.shape[-1]), value=n_places)
    return index_BXK.masked_fill(index_BXK == n_places, 0)
