"""The contrast of a query's own segment with other candidates.

Shape legend: B queries, T candidates of each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r3mem.objectives.base import Term
from r3mem.objectives.context import Need, StepContext


class Contrast(Term):
    """Negative log-probability that a query is of its own segment and not of another candidate's, by its likelihood
    given each one's memory."""

    name = "contrast"
    needs = Need.CANDIDATES

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """``(sum, count)`` in nats, over queries."""
        of = context.candidates
        return contrast(of.scores_BT, of.relevant_BT, of.candidate_BT)


def contrast(scores_BT: Tensor, relevant_BT: Tensor, candidate_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-probability of each relevant candidate among itself and those that are not relevant.

    Args:
        scores_BT: Log-likelihood of a query given each candidate's memory: a softmax over it is the posterior of a
            uniform choice.
        relevant_BT: ``bool``; candidates that answer the query.
        candidate_BT: ``bool``; False where nothing stands.

    Returns:
        ``(sum, count)`` in nats over the relevant candidates of rows that have others to tell them from.
    """
    wrong_BT = candidate_BT & ~relevant_BT
    against_B = scores_BT.masked_fill(~wrong_BT, -torch.inf).logsumexp(1)
    counts_BT = candidate_BT & relevant_BT & wrong_BT.any(1, keepdim=True)
    nats_BT = torch.logaddexp(scores_BT, against_B[:, None]) - scores_BT
    return torch.where(counts_BT, nats_BT, 0).sum(), counts_BT.sum()
