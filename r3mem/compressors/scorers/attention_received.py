"""Attention received: what later tokens looked at (H2O, 2306.14048)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from r3mem.attention import Observed, View
from r3mem.compressors.scorers.base import Scorer


class AttentionReceived(Scorer):
    """Mean attention that a position received from the queries that could see it.

    H2O sums where this takes the mean; with a sum, early positions win because more queries saw them.
    """

    def views(self, observed: Observed) -> Sequence[View]:
        """See :meth:`Scorer.views`."""
        return (View(),)

    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`."""
        return next(sums)
