"""The memory that training carries from batch to batch, and how a checkpoint holds it.

Shape legend: B rows of all processes, K virtual tokens, D width.
"""

from __future__ import annotations

from typing import cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from r3mem.memory import MemoryState


class CarriedMemory:
    """What the rows of a batch remember of the batches before.

    Attributes:
        state: The memory after the last batch, cut from the graph; None where nothing is carried.
    """

    def __init__(self) -> None:
        self.state: MemoryState | None = None

    def begin(self, batch: dict[str, Tensor], ratio: int, in_step: bool = False) -> MemoryState | None:
        """The memory that a batch goes on from, empty in rows that begin anew; None where no row goes on.

        Args:
            batch: A batch; one without ``reset_B`` goes on from nothing.
            ratio: The ratio in force.
            in_step: Whether an empty memory is given instead of none, so that every process reads one.
        """
        reset_B, carried = batch.get("reset_B"), self.state
        if carried is None or reset_B is None or len(carried.lengths_B) != len(reset_B) or carried.ratio != ratio:
            return None  # Slots of another ratio stand for other tokens.
        if bool(reset_B.all()) and not in_step:
            return None
        return carried.forget(reset_B)

    def keep(self, state: MemoryState | None) -> None:
        """Carry the memory after a batch; a batch that gives none leaves what is carried as it is."""
        if state is not None:
            self.state = state.detach()


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
