"""The shared tests of scorers, for ``SumOfScorers``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from r3mem import ConfigError
from r3mem.compressors.scorers import (
    AttentionReceived,
    BenefitWeightedAttention,
    DistantAttention,
    FutureAttention,
    Recency,
    Scorer,
    SumOfScorers,
)
from tests.battery.scorer import Plain, ScorerBattery

SINKS = 2


class TestSumOfScorers(ScorerBattery):
    @staticmethod
    def build() -> Scorer:
        return SumOfScorers([AttentionReceived(), Recency(), DistantAttention(3)], weights=[1.0, 0.5, 2.0], sinks=SINKS)

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        ones_N = torch.ones(plain.observed.n_text)
        parts = [
            (1.0, plain.mean_over_seeing(ones_N)),
            (0.5, 1.0 + torch.arange(plain.n_keys).expand(plain.observed.shape[1:]).float()),
            (2.0, plain.mean_over_seeing(ones_N, min_distance=3)),
        ]
        counted_S = torch.arange(plain.n_keys) >= SINKS
        total_LHS = torch.zeros(plain.observed.shape[1:])
        for weight, scores_LHS in parts:
            scores_LHS = scores_LHS * counted_S
            total_LHS += weight * scores_LHS / scores_LHS.sum(-1, keepdim=True).clamp(min=1e-9)
        return total_LHS


def test_needs_what_its_scorers_need() -> None:
    made = SumOfScorers([FutureAttention(5), BenefitWeightedAttention(), FutureAttention(7)])
    assert made.needs_logits and made.future == 7
    assert not SumOfScorers([AttentionReceived()]).needs_logits


@pytest.mark.parametrize("weights", [None, [1.0]])
def test_no_scorers_or_other_weights(weights: list[float] | None) -> None:
    scorers: list[Scorer] = [] if weights is None else [Recency(), Recency()]
    with pytest.raises(ConfigError, match="at least one scorer"):
        SumOfScorers(scorers, weights)
