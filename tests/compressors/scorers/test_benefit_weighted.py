"""The shared tests of scorers, for ``BenefitWeightedAttention``."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from r3mem import ConfigError, Segments
from r3mem.backbone.next_tokens import logits_of
from r3mem.compressors.scorers import BenefitWeightedAttention, Scorer
from tests.battery.scorer import Plain, ScorerBattery

WINDOW = 4


class TestBenefitWeightedAttention(ScorerBattery):
    build = staticmethod(partial(BenefitWeightedAttention, distance=2, window=WINDOW))

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        """Every query alone in its window: the second half of the window that ends behind it."""
        observed, ids = plain.observed, plain.observed.text.ids_BN[0].tolist()
        assert observed.scores is not None
        benefit_N = torch.zeros(len(ids))
        for n in range(len(ids) - 1):
            # Its next token is the first or the second of a half.
            half = WINDOW // 2
            start = max(0, (n + 1) // half * half - half)
            window = Segments.pad([ids[start : n + 1]])
            short_V = plain.backbone(window).logits_BNV[0, -1].log_softmax(-1)
            whole_V = logits_of(observed.scores)[0, n].log_softmax(-1)
            benefit_N[n] = max(0.0, float(whole_V[ids[n + 1]] - short_V[ids[n + 1]]))
        return plain.mean_over_seeing(benefit_N, min_distance=2)


@pytest.mark.parametrize("given", [{"distance": 0}, {"window": 5}, {"window": 0}])
def test_impossible(given: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="even window"):
        BenefitWeightedAttention(**given)
