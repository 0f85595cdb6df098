"""Means over what all processes counted together.

Shape legend: T terms of the objective.
"""

from __future__ import annotations

from typing import cast

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_modules.batch_pass import Sums, total
from r3mem.errors import R3MemError

NOT_FINITE = (
    "lower the learning rate (--model.optimizer.init_args.lr), leave calibration on (--model.calibrate=true), and if "
    "the backbone is in float16, load it in bfloat16"
)


def check_finite(loss: Tensor, step: int) -> None:
    """Refuse to go on with a loss that is no number.

    Args:
        loss: The same in every process.
        step: Optimiser steps that were made.

    Raises:
        R3MemError: Says what to change.
    """
    if not bool(loss.isfinite()):
        raise R3MemError(
            f"the loss is {float(loss)} after step {step}: {NOT_FINITE}; an earlier checkpoint of the run is still good"
        )


def over_processes(sums: Sums, trainer: Trainer, device: torch.device) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every term's share in this process's gradient, and its mean over all that all processes counted.

    Rows differ in what they count. A mean of the processes' means would weigh a token by the process it fell to, and a
    run of two processes would differ from one with the same rows. Strategies average gradients, so a share is this
    process's sum over the mean count of a process.

    Args:
        sums: This process's ``(sum, count)`` of every term.
        trainer: Knows the processes.
        device: Where the sums are.

    Returns:
        Shares, with gradients, and means, which are the same in every process.
    """
    totals = {name: total(parts, device) for name, parts in sums.items()}
    if not totals:
        return {}, {}
    all_T2 = torch.stack([torch.stack([summed.detach(), count]) for summed, count in totals.values()])
    if trainer.world_size > 1:
        all_T2 = cast(Tensor, trainer.strategy.reduce(all_T2, reduce_op="mean"))
    counts_T = torch.where(all_T2[:, 1] > 0, all_T2[:, 1], 1)
    shares = {name: summed / counts_T[i] for i, (name, (summed, _)) in enumerate(totals.items())}
    return shares, dict(zip(totals, all_T2[:, 0] / counts_T, strict=True))
