"""Recall metrics against counting by hand.

Shape legend: B batch, N text tokens.
"""

import math

import pytest

from r3mem import Segments
from r3mem.metrics import RecallExactMatch, RecallTokenAccuracy


def batch(rows: list[list[int]], wrong: list[tuple[int, int]], padding: int = 0) -> tuple[Segments, Segments]:
    text = Segments.pad(rows)
    recalled = Segments(text.ids_BN.clone(), text.lengths_B)
    recalled.ids_BN[~text.mask_BN] = padding
    for place in wrong:
        recalled.ids_BN[place] += 1
    return recalled, text


def test_counted_over_batches_not_averaged_over_them() -> None:
    exact, accuracy = RecallExactMatch(), RecallTokenAccuracy()
    batches = [
        batch([[1, 2, 3], [4], []], wrong=[(0, 2)], padding=99),
        batch([[5, 6], [7, 8], [9, 1], [2, 3]], wrong=[(1, 0), (1, 1)]),
    ]
    for metric in (exact, accuracy):
        for recalled, text in batches:
            metric.update(recalled, text)
    assert exact.compute().item() == pytest.approx(4 / 6)
    assert accuracy.compute().item() == pytest.approx(9 / 12)


@pytest.mark.parametrize("metric", [RecallExactMatch(), RecallTokenAccuracy()])
def test_nothing_seen_is_not_a_number(metric: RecallExactMatch | RecallTokenAccuracy) -> None:
    metric.update(*batch([[], []], wrong=[]))
    assert math.isnan(metric.compute())
    metric.update(*batch([[3]], wrong=[]))
    assert metric.compute() == 1
    metric.reset()
    assert metric(*batch([[3]], wrong=[(0, 0)])) == 0
