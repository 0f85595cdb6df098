"""The shared tests of scorers, for ``Recency``."""

from __future__ import annotations

import torch
from torch import Tensor

from r3mem.compressors.scorers import Recency, Scorer
from tests.battery.scorer import Plain, ScorerBattery


class TestRecency(ScorerBattery):
    build = staticmethod(Recency)

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        _, layers, heads, n_keys = plain.observed.shape
        return (1.0 + torch.arange(n_keys)).expand(layers, heads, -1)
