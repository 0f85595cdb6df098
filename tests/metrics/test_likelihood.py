"""Likelihood metrics against numbers by hand."""

import math

import pytest
import torch

from r3mem.metrics import RetainedGain, TokenNLL


def test_nats_a_token_over_batches_of_unequal_size() -> None:
    metric = TokenNLL()
    assert math.isnan(metric.compute())
    for total, count in ((10.0, 5), (1.0, 1), (0.0, 0)):
        metric.update(torch.tensor(total, requires_grad=True), torch.tensor(count))
    assert metric.compute().item() == pytest.approx(11 / 6)


def test_sums_of_many_small_numbers_are_not_lost() -> None:
    metric = TokenNLL()
    metric.update(torch.tensor(1e8), torch.tensor(1))
    for _ in range(64):
        metric.update(torch.tensor(1.0), torch.tensor(0))
    assert metric.total.item() == 1e8 + 64


@pytest.mark.parametrize(("memory", "share"), [(60.0, 1.0), (100.0, 0.0), (80.0, 0.5), (120.0, -0.5), (50.0, 1.25)])
def test_share_of_the_gain(memory: float, share: float) -> None:
    metric = RetainedGain()
    for part in (0.25, 0.75):
        metric.update(*(torch.tensor(part * nats) for nats in (100.0, memory, 60.0)))
    assert metric.compute().item() == pytest.approx(share)


def test_a_history_that_is_worth_nothing_has_no_share() -> None:
    metric = RetainedGain()
    assert math.isnan(metric.compute())
    metric.update(torch.tensor(5.0), torch.tensor(4.0), torch.tensor(6.0))
    assert math.isnan(metric.compute())
