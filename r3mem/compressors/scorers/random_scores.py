"""Random scores: what selecting is worth without knowing what to select."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from r3mem.backbone.attention import Observed
from r3mem.compressors.scorers.base import Scorer


class RandomScores(Scorer):
    """Scores drawn from a seed and the position alone, so that a text has the same memory every time.

    Args:
        seed: Of what is drawn.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`."""
        _, layers, heads, _ = observed.shape
        highest = int(observed.positions_BS.max()) + 1
        drawn_LHP = torch.rand(highest, layers, heads, generator=torch.Generator().manual_seed(self.seed))
        scores_BSLH: Tensor = drawn_LHP.to(observed.valid_BS.device)[observed.positions_BS.clamp(min=0)]
        return scores_BSLH.permute(0, 2, 3, 1) * observed.valid_BS[:, None, None]
