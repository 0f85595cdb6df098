"""The shared tests of scorers, for ``FutureAttention``."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from r3mem import ConfigError
from r3mem.compressors.scorers import FutureAttention, Scorer
from tests.battery.scorer import Plain, ScorerBattery


class TestFutureAttention(ScorerBattery):
    build = staticmethod(partial(FutureAttention, future=3))

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        n_text = plain.observed.n_text
        return plain.mean_over_seeing((torch.arange(n_text) >= n_text - 3).float())


def test_no_future() -> None:
    with pytest.raises(ConfigError, match="at least 1 token"):
        FutureAttention(future=0)
