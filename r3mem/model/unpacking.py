"""Records as they are stored, and stored records as they are read.

Shape legend: T segments of one text, K virtual tokens, D width.
"""

from __future__ import annotations

import json
import weakref
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.compressors import Compressor
from r3mem.errors import InputError
from r3mem.memory import Memory, MemoryState, slots_needed
from r3mem.memory.folded import keep
from r3mem.memory.quantise import Quantised, dequantise
from r3mem.plain_data.components import identity
from r3mem.recall.base import RecallRecord


def record(
    stored: Quantised, row: int, length: int, ratio: int, kept: RecallRecord, fingerprint: dict[str, str]
) -> Memory:
    """One record as a memory.

    Args:
        stored: Finished virtual tokens of several rows, as they are stored.
        row: The record's.
        length: Text tokens of it.
        ratio: Text tokens per virtual token.
        kept: What its words need beside the slots.
        fingerprint: That of the model.
    """
    n_slots = slots_needed(length, ratio)
    return Memory(
        data_TKD=stored.data[row : row + 1, :n_slots].cpu(),
        share_scale_TK=stored.share_scale_BK[row : row + 1, :n_slots].cpu(),
        rest_scale_TK=stored.rest_scale_BK[row : row + 1, :n_slots].cpu(),
        precision=stored.precision, share_dims=stored.share_dims, lengths_T=torch.tensor([length]),
        ratio=ratio, corrections=[kept.packed], digests=[kept.digest], fingerprint=fingerprint,
        wrong=[kept.wrong], scale_group=stored.group,
    )  # fmt: skip


@dataclass(frozen=True)
class Unpacking:
    """Makes states of memories that were checked to be the model's.

    Attributes:
        backbone: The backbone.
        compressor: Says what of the records is read.
        rotation_DD: The decoder's, at the memories' ratio.
    """

    backbone: Backbone
    compressor: Compressor
    rotation_DD: Tensor | None

    def slots(self, memory: Memory, part: slice) -> Tensor:
        """Slots ``TKD`` of some records, in float32 on the backbone's device.

        Args:
            memory: The memory.
            part: Which records.
        """
        stored = Quantised(
            memory.data_TKD[part].to(self.backbone.device), memory.share_scale_TK[part].to(self.backbone.device),
            memory.rest_scale_TK[part].to(self.backbone.device), memory.precision, memory.share_dims,  # type: ignore[arg-type]
            memory.scale_group,
        )  # fmt: skip
        return dequantise(stored, self.rotation_DD)

    def records(self, memory: Memory) -> MemoryState:
        """All records one after the other.

        Args:
            memory: The memory.

        Raises:
            InputError: Slots hold NaN or infinity.
        """
        slots_TKD, lengths = self._finite_slots(memory, slice(None)), memory.lengths_T.tolist()
        used = [slots_TKD[t : t + 1, : slots_needed(n, memory.ratio)] for t, n in enumerate(lengths)]
        return MemoryState.one_after_the_other(used, memory.ratio)

    def state(self, memory: Memory, maker: object) -> MemoryState:
        """The state after the last record, from where a memory holds on to the state after some of them.

        Args:
            memory: The memory.
            maker: The model: what another one made of the records is not taken.

        Raises:
            InputError: Slots hold NaN or infinity.
        """
        count = len(memory.digests)
        if not self.compressor.accumulates:
            return self._gone_on(memory, None, count - 1)
        # Of the stack's name the checks have found that it is the model's.
        settings = json.dumps([memory.fingerprint["stack"], identity(self.compressor), str(self.backbone.device),
                               memory.ratio, memory.share_dims, memory.precision, memory.scale_group,
                               [p._version for p in self.compressor.parameters()]])  # fmt: skip
        folded, before, first = memory.folded, None, 0
        if folded is not None and folded.maker() is maker and folded.settings == settings and folded.count <= count:
            before = folded.still(memory.sources)
            first = 0 if before is None else folded.count
        state = self._gone_on(memory, None if before is None else replace(before), first)
        if before is None or first < count:
            own = [t for t in (state.slots_BKD, state.lengths_B, state.segment_BK) if t is not None]
            memory.folded = keep(replace(state), count, weakref.ref(maker), settings, memory.sources, own)
        return state

    def _gone_on(self, memory: Memory, state: MemoryState | None, first: int) -> MemoryState:
        """The state after the last record, from the one after the records before ``first``."""
        for t in range(first, len(memory.digests)):
            lengths_B = memory.lengths_T[t : t + 1].to(self.backbone.device)
            slots_BKD = self._finite_slots(memory, slice(t, t + 1))[:, : slots_needed(int(lengths_B), memory.ratio)]
            state = self.compressor.next_state(self.backbone, state, MemoryState(slots_BKD, lengths_B, memory.ratio))
        assert state is not None
        return state

    def _finite_slots(self, memory: Memory, part: slice) -> Tensor:
        """Slots as they are read; recall finds out by digests.

        Raises:
            InputError: They hold NaN or infinity.
        """
        slots_TKD = self.slots(memory, part)
        if not bool(torch.isfinite(slots_TKD).all()):
            raise InputError(
                "the memory's virtual tokens hold NaN or infinity, so it was changed after it was made: load it again, "
                "or retain its text again"
            )
        return slots_TKD
