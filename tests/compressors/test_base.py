"""Means by slot, against a loop.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

import pytest
import torch

from r3mem import Segments
from r3mem.compressors.base import mean_by_slot
from r3mem.compressors.parts.hidden_state import without_sink


@pytest.mark.parametrize("ratio", [1, 3, 4, 20])
def test_mean_by_slot_is_a_loop_of_weighted_means(ratio: int) -> None:
    generator = torch.Generator().manual_seed(0)
    states_BND, weight_BN = torch.randn(3, 10, 5, generator=generator), torch.rand(3, 10, generator=generator)
    weight_BN[1, 4:], weight_BN[2] = 0, 0
    got_BKD = mean_by_slot(states_BND, weight_BN, ratio)
    assert got_BKD.shape == (3, -(-10 // ratio), 5)
    for b in range(3):
        for k in range(got_BKD.shape[1]):
            covered = range(k * ratio, min(10, (k + 1) * ratio))
            total = sum(float(weight_BN[b, n]) for n in covered)
            mean_D = sum((weight_BN[b, n] * states_BND[b, n] for n in covered), torch.zeros(5)) / (total or 1)
            torch.testing.assert_close(got_BKD[b, k], mean_D, atol=1e-5, rtol=1e-5)


def test_means_are_taken_in_full_precision() -> None:
    states_BND = torch.full((1, 1000, 1), 1.0, dtype=torch.bfloat16)
    assert mean_by_slot(states_BND, torch.ones(1, 1000), 1000).item() == 1.0


def test_the_first_token_counts_only_where_it_is_alone() -> None:
    text = Segments(torch.zeros(4, 3, dtype=torch.long), torch.tensor([3, 2, 1, 0]))
    assert without_sink(text).tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
