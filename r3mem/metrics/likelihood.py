"""How much of a history's worth a memory keeps, in likelihood."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenNLL(Metric):
    """Mean negative log-likelihood in nats a token, over all tokens of all batches and ranks."""

    full_state_update = False
    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: Tensor) -> None:
        """Add tokens.

        Args:
            total: Sum of their negative log-likelihoods, nats.
            count: Their number.
        """
        self.total += total.double()
        self.count += count

    def compute(self) -> Tensor:
        """Nats a token; NaN before any token."""
        return (self.total / self.count).float() if self.count else torch.tensor(math.nan)


class RetainedGain(Metric):
    """Share of the full history's gain that a memory keeps: ``(nothing - memory) / (nothing - full)`` in nats.

    1 is as good as reading the whole history, 0 as good as reading nothing; below 0 the memory does harm. The three
    likelihoods must be of the same tokens. Where the history is worth nothing the value means nothing, so NaN.
    """

    full_state_update = False
    higher_is_better = True
    nothing: Tensor
    memory: Tensor
    full: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("nothing", "memory", "full"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, nothing: Tensor, memory: Tensor, full: Tensor) -> None:
        """Add the summed negative log-likelihoods of the same tokens given nothing, the memory and the full history."""
        self.nothing += nothing.double()
        self.memory += memory.double()
        self.full += full.double()

    def compute(self) -> Tensor:
        """The share, usually from 0 to 1."""
        gain = self.nothing - self.full
        return ((self.nothing - self.memory) / gain).float() if gain > 0 else torch.tensor(math.nan)
