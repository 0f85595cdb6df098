"""Learned vectors that slots start from, and what a row holds before a segment: its memory, or those vectors.

Shape legend: B batch, K virtual tokens, S learned vectors, P slots held, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from r3mem.errors import ConfigError, InputError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import MemoryState


def check_learned(slots: int) -> None:
    """Refuse a number of learned vectors that no text can start from.

    Raises:
        ConfigError: It is below 1.
    """
    if whole_setting(slots, "slots") < 1:
        raise ConfigError(f"slots {slots} is not possible; at least 1 vector is learned")


def first_slots(vectors_SD: Tensor, mask_BK: Tensor, ratio: int) -> Tensor:
    """The learned vectors that the slots of a text start from: the first K of them in every row, ``BKD``.

    Args:
        vectors_SD: The learned vectors.
        mask_BK: Slots of the text.
        ratio: Text tokens per slot.

    Raises:
        InputError: The text needs more than were learned.
    """
    n_batch, n_slots = mask_BK.shape
    if n_slots > len(vectors_SD):
        raise InputError(
            f"a segment of up to {n_slots * ratio} tokens needs {n_slots} memory tokens at ratio {ratio}, but "
            f"{len(vectors_SD)} were learned: raise slots, or cut shorter segments"
        )
    return vectors_SD[:n_slots].expand(n_batch, -1, -1)


def held_slots(start_BKD: Tensor, mask_BK: Tensor, memory: MemoryState | None) -> tuple[Tensor, Tensor]:
    """What each row holds before a segment: its memory; the learned start where it has none, or too few slots of it.

    Args:
        start_BKD: The learned vectors that the segment's slots start from.
        mask_BK: Slots of the segment.
        memory: What each row remembers.

    Returns:
        ``held_BPD``, at least K slots of which every one of the segment's stands for something, and ``held_BP``: True
        where a slot is of the memory, or of the start in a row that remembers nothing.
    """
    if memory is None:
        return start_BKD, mask_BK
    n_slots = max(mask_BK.shape[1], memory.slots_BKD.shape[1])
    has_B1 = (memory.lengths_B > 0)[:, None]
    held_BP = torch.where(has_B1, _wider(memory.mask_BK, n_slots), _wider(mask_BK, n_slots))
    kept_BP1 = (held_BP & has_B1)[..., None]
    first_BPD = pad(start_BKD, (0, 0, 0, n_slots - start_BKD.shape[1]))
    before_BPD = pad(memory.slots_BKD, (0, 0, 0, n_slots - memory.slots_BKD.shape[1]))
    return torch.where(kept_BP1, before_BPD, first_BPD), held_BP


def _wider(mask_BK: Tensor, n_slots: int) -> Tensor:
    return pad(mask_BK, (0, n_slots - mask_BK.shape[1]))
