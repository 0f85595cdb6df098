"""Attention from far away: what was still looked at when it was no longer near."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from r3mem.backbone.attention import Observed, View
from r3mem.compressors.scorers.base import Scorer
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting


class DistantAttention(Scorer):
    """Mean attention from queries at least ``distance`` tokens behind a position.

    Most attention is local and says nothing of what a later reader needs; a later reader is always distant.

    Args:
        distance: Tokens, at least 1. Positions nearer to the text's end than this have score 0.
    """

    def __init__(self, distance: int = 64) -> None:
        super().__init__()
        if whole_setting(distance, "distance") < 1:
            raise ConfigError(f"distance {distance} is not possible: give at least 1 token")
        self.distance = distance

    def views(self, observed: Observed) -> Sequence[View]:
        """See :meth:`Scorer.views`."""
        return (View(min_distance=self.distance),)

    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`."""
        return next(sums)
