"""A sum of scorers, each normalised.

Shape legend: B batch, L layers, H heads of keys and values, S positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from r3mem.backbone.attention import Observed, View
from r3mem.compressors.scorers.base import Scorer
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting


class SumOfScorers(Scorer):
    """Scores of several scorers, each divided by its sum over the positions of a head, added up.

    Attention sinks do not count in the sums: they would drown everything else.

    Args:
        scorers: At least one.
        weights: Factor of each; None takes 1.
        sinks: Positions at the start that do not count.
    """

    def __init__(self, scorers: list[Scorer], weights: list[float] | None = None, sinks: int = 4) -> None:
        super().__init__()
        sinks = whole_setting(sinks, "sinks", 0)
        if not scorers or (weights is not None and len(weights) != len(scorers)):
            raise ConfigError(f"{len(scorers)} scorers and weights {weights}: give at least one scorer, a weight each")
        self.scorers, self.weights, self.sinks = nn.ModuleList(scorers), weights, sinks
        self.future = max(scorer.future for scorer in scorers)

    @property
    def needs_logits(self) -> bool:  # type: ignore[override]
        """See `Scorer.needs_logits`."""
        return any(scorer.needs_logits for scorer in self.scorers)

    def views(self, observed: Observed) -> Sequence[View]:
        """See :meth:`Scorer.views`."""
        return [view for scorer in self._in_order for view in scorer.views(observed)]

    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`."""
        counted_BS = (observed.valid_BS & (observed.positions_BS >= self.sinks))[:, None, None]
        total_BLHS = torch.zeros(observed.shape, device=observed.valid_BS.device)
        for scorer, weight in zip(self._in_order, self.weights or [1.0] * len(self.scorers), strict=True):
            scores_BLHS = scorer.score(observed, sums) * counted_BS
            total_BLHS += weight * scores_BLHS / scores_BLHS.sum(-1, keepdim=True).clamp(min=1e-9)
        return total_BLHS

    @property
    def _in_order(self) -> list[Scorer]:
        return cast("list[Scorer]", list(self.scorers))
