"""The compress direction: from a memory to the query that names its segment."""

from __future__ import annotations

from torch import Tensor

from r3mem.objectives.base import Term
from r3mem.objectives.context import Need, StepContext


class QueryNLL(Term):
    """Negative log-likelihood of a segment's query given its memory."""

    name = "query"
    needs = Need.QUERY

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """``(sum, count)`` in nats, over tokens of queries."""
        return context.query.nll()
