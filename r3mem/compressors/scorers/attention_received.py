"""Attention received: what later tokens looked at (H2O, 2306.14048)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from r3mem.backbone.attention import FEW_QUERIES, Observed, View
from r3mem.compressors.scorers.base import Scorer
from r3mem.errors import ConfigError


class AttentionReceived(Scorer):
    """Mean attention that a position received from the queries that could see it.

    Where this differs from H2O: H2O sums, and then early positions win because more queries saw them. It also keeps
    half of its budget for the last positions (``recent`` of `SelectedKeyValues`), and evicts step by step. With ``few``
    0 this is NVIDIA's ``ObservedAttentionPress``, which takes the mean too.

    Args:
        few: Queries that saw nothing of a position, added to those that could see it. Without them the last positions
            win: each was seen by few, and every token looks at itself.
    """

    def __init__(self, few: float = FEW_QUERIES) -> None:
        super().__init__()
        if few < 0:
            raise ConfigError(f"few {few} is not possible: give at least 0 queries")
        self.few = few

    def views(self, observed: Observed) -> Sequence[View]:
        """See :meth:`Scorer.views`."""
        return (View(few=self.few),)

    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`."""
        return next(sums)
