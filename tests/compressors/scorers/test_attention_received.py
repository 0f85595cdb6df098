"""The shared tests of scorers, for ``AttentionReceived``."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from r3mem import ConfigError
from r3mem.compressors.scorers import AttentionReceived, Scorer
from tests.battery.scorer import Plain, ScorerBattery


class TestAttentionReceived(ScorerBattery):
    build = staticmethod(AttentionReceived)

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        return plain.mean_over_seeing(torch.ones(plain.observed.n_text))


class TestMeanAlone(ScorerBattery):
    build = staticmethod(partial(AttentionReceived, few=0.0))

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        return plain.mean_over_seeing(torch.ones(plain.observed.n_text), few=0.0)


def test_fewer_queries_than_none() -> None:
    with pytest.raises(ConfigError, match="at least 0 queries"):
        AttentionReceived(few=-1.0)
