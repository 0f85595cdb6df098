"""The shared tests of scorers, for ``LastQueries``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from r3mem import Backbone, ConfigError
from r3mem.compressors import SelectedKeyValues
from r3mem.compressors.scorers import LastQueries, Scorer
from tests.battery.compressor import random_text
from tests.battery.scorer import Plain, ScorerBattery
from tests.tiny_models import WIDTH

WINDOW, KERNEL = 4, 3


class TestLastQueries(ScorerBattery):
    build = staticmethod(partial(LastQueries, window=WINDOW, kernel=KERNEL))

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        n_memory = plain.n_memory
        n_front = plain.n_keys - n_memory - WINDOW

        def score(head_GNS: Tensor) -> Tensor:
            mean_S = head_GNS[:, -WINDOW:].sum((0, 1)) / head_GNS.shape[0] / min(WINDOW, head_GNS.shape[1])
            if n_front <= 0:
                return torch.cat([seen_S(head_GNS)[:n_memory], torch.ones(plain.n_keys - n_memory)])
            front_N = mean_S[n_memory : n_memory + n_front]
            near = [front_N[max(0, i - KERNEL // 2) : i + KERNEL // 2 + 1].sum() / KERNEL for i in range(n_front)]
            return torch.cat([mean_S[:n_memory], torch.stack(near), max(near).expand(WINDOW)])

        def seen_S(head_GNS: Tensor) -> Tensor:
            return head_GNS.mean((0, 1))

        return plain.per_head(score)


@torch.no_grad()
def test_the_window_is_kept(tiny_backbone: Callable[..., Backbone]) -> None:
    """Also where it is all of the budget: 20 tokens at ratio 4 have 5 slots, of them 4 are the window's."""
    backbone, text = tiny_backbone().eval(), random_text([20])
    compressor = SelectedKeyValues(WIDTH, 4, LastQueries(WINDOW), sinks=0, positions="original")
    slots_BKW = compressor(backbone, text, None).slots_BKD
    layout = backbone.key_values
    kept = layout.pairs(slots_BKW[..., : layout.width], torch.zeros(1, 5, dtype=torch.long))
    layers = backbone(text, observe=True).attention.layers
    for (keys_BHKE, _), layer in zip(kept, layers, strict=True):
        torch.testing.assert_close(keys_BHKE[:, :, -WINDOW:], layer.keys_BHSE[:, :, -WINDOW:])


@pytest.mark.parametrize("given", [{"window": 0}, {"kernel": 4}, {"kernel": 0}])
def test_impossible(given: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="an odd kernel"):
        LastQueries(**given)
