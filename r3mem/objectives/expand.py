"""The expand direction: from a memory and a query to the segment."""

from __future__ import annotations

from torch import Tensor

from r3mem.objectives.base import Term
from r3mem.objectives.context import Need, StepContext


class ExpandNLL(Term):
    """Negative log-likelihood of a segment given its memory and its query."""

    name = "expand"
    needs = Need.EXPANSION

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """``(sum, count)`` in nats, over tokens of segments."""
        return context.expansion.nll()
