"""How much of a text comes back when a memory runs backward, free-running: no token of the text is shown.

Shape legend: B batch, N text tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from r3mem.memory import Segments


class RecallExactMatch(Metric):
    """Share of segments that are recalled without a single wrong token."""

    full_state_update = False
    higher_is_better = True
    exact: Tensor
    segments: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("exact", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("segments", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, recalled: Segments, text: Segments) -> None:
        """Add segments; empty rows do not count.

        Args:
            recalled: What came back.
            text: What was retained.
        """
        rows_B = text.lengths_B > 0
        wrong_B = ((recalled.ids_BN != text.ids_BN) & text.mask_BN).any(1)
        self.exact += (~wrong_B & rows_B).sum()
        self.segments += rows_B.sum()

    def compute(self) -> Tensor:
        """The share; NaN before any segment."""
        return self.exact.float() / self.segments if self.segments else torch.tensor(math.nan)


class RecallTokenAccuracy(Metric):
    """Share of tokens that are recalled. High values can still mean that no segment is exact."""

    full_state_update = False
    higher_is_better = True
    right: Tensor
    tokens: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("right", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, recalled: Segments, text: Segments) -> None:
        """Add segments; see :meth:`RecallExactMatch.update`."""
        self.right += ((recalled.ids_BN == text.ids_BN) & text.mask_BN).sum()
        self.tokens += text.mask_BN.sum()

    def compute(self) -> Tensor:
        """The share; NaN before any token."""
        return self.right.float() / self.tokens if self.tokens else torch.tensor(math.nan)
