"""The shared tests of scorers, for ``DistantAttention``."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from r3mem import ConfigError
from r3mem.compressors.scorers import DistantAttention, Scorer
from tests.battery.scorer import Plain, ScorerBattery


class TestDistantAttention(ScorerBattery):
    build = staticmethod(partial(DistantAttention, distance=4))

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        return plain.mean_over_seeing(torch.ones(plain.observed.n_text), min_distance=4)


def test_no_distance() -> None:
    with pytest.raises(ConfigError, match="at least 1 token"):
        DistantAttention(distance=0)
