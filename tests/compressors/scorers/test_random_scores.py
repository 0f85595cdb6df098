"""The shared tests of scorers, for ``RandomScores``."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from r3mem.compressors.scorers import RandomScores, Scorer
from tests.battery.scorer import Plain, ScorerBattery


class TestRandomScores(ScorerBattery):
    build = staticmethod(partial(RandomScores, seed=3))

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        """What the seed gives for as many positions, and another seed does not."""
        _, layers, heads, n_keys = plain.observed.shape
        drawn_SLH = torch.rand(n_keys, layers, heads, generator=torch.Generator().manual_seed(3))
        assert not torch.equal(RandomScores(seed=4)(plain.observed), scorer(plain.observed))
        return drawn_SLH.permute(1, 2, 0)
