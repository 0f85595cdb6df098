"""The shared tests of scorers, for ``ExpectedAttention``."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from r3mem import ConfigError
from r3mem.compressors.scorers import ExpectedAttention, Scorer
from tests.battery.scorer import Plain, ScorerBattery

AHEAD, SINKS, EPSILON = 12, 2, 0.01


class TestExpectedAttention(ScorerBattery):
    build = staticmethod(partial(ExpectedAttention, ahead=AHEAD, sinks=SINKS, epsilon=EPSILON))
    # Where queries have a projection of their own, whose output is what is not yet turned.
    plain_families = ("llama", "qwen2")

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        """Of the query projections' outputs, with rotations written out as matrices."""
        model, observed = plain.backbone.base, plain.observed
        scores = []
        for layer, queries_NX in zip(observed.layers, plain.queries, strict=True):
            keys_HSE, values_HSE = layer.keys_BHSE[0], layer.values_BHSE[0]
            n_heads, n_keys, width = keys_HSE.shape
            angles_E = torch.cat([model.model.rotary_emb.inv_freq] * 2)
            half = width // 2
            swap_EE = torch.zeros(width, width)
            swap_EE[torch.arange(half), torch.arange(half) + half] = -1
            swap_EE[torch.arange(half) + half, torch.arange(half)] = 1
            turn_EE = torch.zeros(width, width)
            for position in range(n_keys, n_keys + AHEAD):
                turn_EE += torch.diag((position * angles_E).cos()) + torch.diag((position * angles_E).sin()) @ swap_EE
            turn_EE /= AHEAD
            queries_ANE = queries_NX.unflatten(1, (-1, width)).transpose(0, 1)[:, max(0, SINKS - plain.n_memory) :]
            groups = len(queries_ANE) // n_heads
            for h in range(n_heads):
                expected_S = torch.zeros(n_keys - SINKS)
                for query_NE in queries_ANE[h * groups : (h + 1) * groups]:
                    mean_E, covariance_EE = query_NE.mean(0), query_NE.T.cov(correction=0).reshape(width, width)
                    mean_E, covariance_EE = turn_EE @ mean_E, turn_EE @ covariance_EE @ turn_EE.T
                    logits = [
                        k_E @ mean_E / width**0.5 + k_E @ covariance_EE @ k_E / width / 2 for k_E in keys_HSE[h, SINKS:]
                    ]
                    expected_S += torch.stack(logits).softmax(0) / groups
                scores_S = (expected_S + EPSILON) * values_HSE[h, SINKS:].norm(dim=-1)
                scores.append(torch.cat([scores_S.max().expand(SINKS), scores_S]))
        return torch.stack(scores).view(observed.shape[1:])


@pytest.mark.parametrize("given", [{"ahead": 0}, {"sinks": -1}, {"epsilon": -0.1}])
def test_impossible(given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at least 1 position"):
        ExpectedAttention(**given)
