"""Ranking metrics by hand, against torchmetrics' own, and where scores are equal.

Shape legend: Q queries, P passages.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.retrieval import retrieval_recall, retrieval_reciprocal_rank

from r3mem import ConfigError, InputError
from r3mem.metrics import MeanReciprocalRank, RecallAtK

SCORES = torch.tensor([0.1, 0.9, 0.4, 0.8, 0.3])
RELEVANT = torch.tensor([True, False, True, True, False])


def test_by_hand() -> None:
    # From the best: irrelevant, relevant, relevant, irrelevant, relevant.
    for k, expected in ((1, 0), (2, 1 / 3), (3, 2 / 3), (4, 2 / 3), (5, 1), (9, 1)):
        metric = RecallAtK(k)
        metric.update(SCORES, RELEVANT)
        assert metric.compute().item() == pytest.approx(expected)
    metric = MeanReciprocalRank()
    metric.update(SCORES, RELEVANT)
    metric.update(-SCORES, RELEVANT)
    assert metric.compute().item() == pytest.approx((1 / 2 + 1) / 2)


def test_log_likelihoods_are_ranked_like_any_score() -> None:
    for make in (lambda: RecallAtK(2), MeanReciprocalRank):
        above, below = make(), make()
        above.update(SCORES, RELEVANT)
        below.update(SCORES - 1000, RELEVANT)
        assert above.compute() == below.compute() > 0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), n_passages=st.integers(1, 12), k=st.integers(1, 14))
def test_as_torchmetrics_where_no_scores_are_equal(seed: int, n_passages: int, k: int) -> None:
    g = torch.Generator().manual_seed(seed)
    # torchmetrics takes what is not above 0 for not retrieved.
    scores = 1 + torch.randperm(n_passages, generator=g).float()
    relevant = torch.rand(n_passages, generator=g) < 0.4
    recall, reciprocal = RecallAtK(k), MeanReciprocalRank()
    for metric in (recall, reciprocal):
        metric.update(scores, relevant)
    if not relevant.any():
        assert math.isnan(recall.compute()) and math.isnan(reciprocal.compute())
        return
    assert recall.compute().item() == pytest.approx(retrieval_recall(scores, relevant, top_k=k).item())
    assert reciprocal.compute().item() == pytest.approx(retrieval_reciprocal_rank(scores, relevant).item())


@pytest.mark.parametrize("relevant_first", [True, False])
def test_not_telling_passages_apart_earns_nothing(relevant_first: bool) -> None:
    relevant = torch.tensor([relevant_first, relevant_first, not relevant_first, not relevant_first])
    recall, reciprocal = RecallAtK(2), MeanReciprocalRank()
    for metric in (recall, reciprocal):
        metric.update(torch.zeros(4), relevant)
    assert recall.compute() == 0 and reciprocal.compute().item() == pytest.approx(1 / 3)


def test_equal_scores_below_the_best() -> None:
    metric = RecallAtK(2)
    # The first place is a relevant passage's for sure; for the second, two are equal.
    metric.update(torch.tensor([2.0, 1.0, 1.0]), torch.tensor([True, True, False]))
    assert metric.compute() == 0.5


def test_queries_together_as_one_by_one() -> None:
    g = torch.Generator().manual_seed(0)
    scores_QP = torch.randint(4, (30, 7), generator=g).float()
    relevant_QP = torch.rand(30, 7, generator=g) < 0.3
    mask_QP = torch.rand(30, 7, generator=g) < 0.8
    for make in (lambda: RecallAtK(3), MeanReciprocalRank):
        together, single = make(), make()
        together.update(scores_QP.masked_fill(~mask_QP, math.nan), relevant_QP, mask_QP)
        for scores_P, relevant_P, mask_P in zip(scores_QP, relevant_QP, mask_QP, strict=True):
            single.update(scores_P[mask_P], relevant_P[mask_P])
        assert together.queries == single.queries == (relevant_QP & mask_QP).any(1).sum()
        assert together.compute().item() == pytest.approx(single.compute().item())


def test_every_query_counts_once_whatever_the_batches() -> None:
    metric = MeanReciprocalRank()
    metric.update(torch.tensor([[3.0, 2.0], [3.0, 2.0], [3.0, 2.0]]), torch.tensor([[True, False]] * 3))
    metric.update(torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([False, False, False, True]))
    metric.update(torch.tensor([1.0]), torch.tensor([False]))
    assert metric.compute().item() == pytest.approx((3 * 1 + 1 / 4) / 4)
    metric.reset()
    assert math.isnan(metric.compute())
    assert metric(torch.tensor([1.0]), torch.tensor([True])) == 1


def test_wrong_input() -> None:
    with pytest.raises(ConfigError, match="k 0"):
        RecallAtK(0)
    with pytest.raises(InputError, match=r"shapes \(2,\), \(3,\)"):
        MeanReciprocalRank().update(torch.zeros(2), torch.ones(3))
    with pytest.raises(InputError, match="not a number"):
        RecallAtK(1).update(torch.tensor([math.nan, 1.0]), torch.tensor([True, False]))
