"""The memory that training carries from batch to batch, as a checkpoint holds it: the rows of all processes.

Shape legend: B rows of all processes, K virtual tokens, D width.
"""

from __future__ import annotations

from typing import cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from r3mem.memory import MemoryState


def rows_of_all(carried: MemoryState, module: LightningModule) -> MemoryState:
    """The rows of every process, in order: those that one process would have. All processes take part.

    Args:
        carried: This process's rows.
        module: The module that is trained.
    """
    if module.trainer.world_size == 1:
        return carried
    # Where a compressor accumulates, processes may have different numbers of slots.
    width = carried.slots_BKD.shape[1]
    widest = int(cast(Tensor, module.all_gather(torch.tensor(width, device=module.device))).max())
    parts = [torch.nn.functional.pad(carried.slots_BKD, (0, 0, 0, widest - width)), carried.lengths_B]
    if carried.segment_BK is not None:
        parts.append(torch.nn.functional.pad(carried.segment_BK, (0, widest - width)))
    slots_BKD, lengths_B, *segment = (cast(Tensor, module.all_gather(t)).flatten(0, 1) for t in parts)
    return MemoryState(slots_BKD, lengths_B, carried.ratio, *segment)
