"""The forward likelihood."""

from __future__ import annotations

from torch import Tensor

from r3mem.objectives.base import Term
from r3mem.objectives.context import Need, StepContext
from r3mem.objectives.likelihood import forward_nll


class ForwardNLL(Term):
    """Negative log-likelihood of a segment given the memory of what came before."""

    name = "forward"
    needs = Need.SCORES

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """``(sum, count)`` in nats, over tokens of rows with a memory."""
        return forward_nll(context.reading.scores, context.text, context.reading.rows_B)
