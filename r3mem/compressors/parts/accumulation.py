"""States that hold more than their last segment: the slots of several, one after the other, up to a number.

Shape legend: B batch, K virtual tokens, S learned vectors, J slots kept, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.compressors.base import Compressor
from r3mem.compressors.parts.appended_slots import AppendedSlots
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import MemoryState, Segments


class Accumulates(Compressor):
    """A compressor whose state is the slots of all segments, up to ``max_slots``."""

    accumulates: ClassVar[bool] = True
    state_settings: ClassVar[tuple[str, ...]] = ("ratio", "max_slots")
    max_slots: int

    @property
    def state_slots(self) -> int | None:
        """See :attr:`Compressor.state_slots`."""
        return self.max_slots

    def next_state(self, backbone: Backbone, before: MemoryState | None, written: MemoryState) -> MemoryState:
        """All that was written, up to ``max_slots``; see :func:`accumulated`."""
        return accumulated(before, written, self.max_slots)


class AccumulatingSlots(Accumulates, AppendedSlots):
    """The slots of all segments are kept and read; learned vectors start as the end of a text. See `AppendedSlots`.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        slots: S, learned vectors, as the class that is accumulated takes them.
        max_slots: Slots that a state holds at most.
    """

    def __init__(self, width: int, ratio: int, slots: int | None, max_slots: int) -> None:
        super().__init__(width, ratio, slots)  # type: ignore[arg-type]  # Vectors of keys and values may be one for all.
        check_max_slots(max_slots)
        self.max_slots = max_slots

    @torch.no_grad()
    def calibrate(self, backbone: Backbone, text: Segments, finish: Callable[[Tensor], Tensor]) -> float:
        """Start from the embedding of the end of a text; where a tokenizer has none, from drawn vectors."""
        end = backbone.tokenizer.eos_token_id
        if end is None:
            return super().calibrate(backbone, text, finish)
        self.initial_SD.copy_(backbone.embedding_VD[end].expand_as(self.initial_SD))
        return 1.0


def check_max_slots(max_slots: int) -> None:
    """Refuse a state that holds nothing.

    Raises:
        ConfigError: It has no slot.
    """
    if whole_setting(max_slots, "max_slots") < 1:
        raise ConfigError(f"max_slots {max_slots} is not possible; a state holds at least 1 slot")


def accumulated(before: MemoryState | None, written: MemoryState, max_slots: int) -> MemoryState:
    """All slots in use of both, in order, the last ``max_slots`` of each row; a slot counts for a whole ``ratio``.

    A row whose segment was empty stays as it was, one that was emptied (`MemoryState.forget`) begins anew.

    Args:
        before: What was remembered before the segment, None at the start of a text.
        written: The segment's own memory; a row of length 0 had no segment.
        max_slots: Slots that a state holds at most.

    Returns:
        The state, with the number of each slot's segment; numbers rise, and not all need be there.
    """
    if before is None:
        before = MemoryState(written.slots_BKD[:, :0], torch.zeros_like(written.lengths_B), written.ratio)
    both_BKD = torch.cat([before.slots_BKD, written.slots_BKD], 1)
    both_BK = torch.cat(_numbers(before, written), 1)
    held_B = before.mask_BK.sum(1)
    count_B = held_B + written.mask_BK.sum(1)
    kept_B = count_B.clamp(max=max_slots)
    place_J = torch.arange(max(1, int(kept_B.max())), device=both_BKD.device)
    order_BJ = (count_B - kept_B)[:, None] + place_J
    # Slots out of use stand between those of the state and those of the segment.
    gap_B1 = (before.slots_BKD.shape[1] - held_B)[:, None]
    source_BJ = torch.where(order_BJ < held_B[:, None], order_BJ, order_BJ + gap_B1).clamp(max=both_BKD.shape[1] - 1)
    slots_BJD = both_BKD.gather(1, source_BJ[..., None].expand(-1, -1, both_BKD.shape[2]))
    inside_BJ = place_J < kept_B[:, None]
    segment_BJ = torch.where(inside_BJ, both_BK.gather(1, source_BJ), 0)
    slots_BJD = torch.where(inside_BJ[..., None], slots_BJD, 0.0)
    return MemoryState(slots_BJD, kept_B * written.ratio, written.ratio, segment_BJ)


def _numbers(before: MemoryState, written: MemoryState) -> tuple[Tensor, Tensor]:
    """Numbers of the segments of all slots, in rising order: what is written gets the next one."""
    held_BK = before.mask_BK
    before_BK = held_BK.long() - 1 if before.segment_BK is None else before.segment_BK
    before_BK = torch.where(held_BK, before_BK, -1)
    next_B1 = torch.nn.functional.pad(before_BK, (1, 0), value=-1).amax(1, keepdim=True) + 1
    return before_BK, next_B1.expand(-1, written.slots_BKD.shape[1])
