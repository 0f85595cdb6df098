"""Where the relevant passages stand when passages are ranked by score.

torchmetrics has ``RetrievalRecall`` and ``RetrievalMRR``. They do not fit: from 1.9 on a passage whose score is not
above 0 counts as not retrieved, and every log-likelihood is below; passages of equal score are ranked as they happen
to be sorted, so that a search that gives all the same score can look perfect; and they keep every score of every query
until the end. For positive and different scores they give the same figures as these (tested).

Shape legend: Q queries, P passages of a query.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from r3mem.errors import ConfigError, InputError


class _RankMetric(Metric):
    """Mean of a figure over queries that have a relevant passage; each query counts once, on any number of ranks."""

    full_state_update = False
    higher_is_better = True
    total: Tensor
    queries: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("queries", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Tensor, relevant: Tensor, mask: Tensor | None = None) -> None:
        """Add one query, or several of as many passages.

        Args:
            scores: ``P`` or ``QP``, higher is better.
            relevant: ``bool``, of the same shape; queries without a relevant passage do not count.
            mask: ``bool``, of the same shape: False where there is no passage.

        Raises:
            InputError: The shapes differ, or a score is not a number.
        """
        mask = torch.ones_like(relevant, dtype=torch.bool) if mask is None else mask.bool()
        if scores.shape != relevant.shape or scores.shape != mask.shape or scores.dim() not in (1, 2):
            raise InputError(
                f"scores, relevant and mask are of shapes {tuple(scores.shape)}, {tuple(relevant.shape)} and "
                f"{tuple(mask.shape)}: give all of one query (P) or of several (Q, P)"
            )
        if bool((scores.isnan() & mask).any()):
            raise InputError("a score is not a number, so its passage has no rank: look for what made it")
        scores_QP, mask_QP = _rows(scores.detach()), _rows(mask)
        relevant_QP = _rows(relevant.bool()) & mask_QP
        counts_Q = relevant_QP.any(1)
        value_Q = self._value(_ranks(scores_QP, relevant_QP, mask_QP), relevant_QP)
        self.total += value_Q[counts_Q].double().sum()
        self.queries += counts_Q.sum()

    def compute(self) -> Tensor:
        """The mean; NaN before any query."""
        return (self.total / self.queries).float() if self.queries else torch.tensor(math.nan)

    @abstractmethod
    def _value(self, ranks_QP: Tensor, relevant_QP: Tensor) -> Tensor:
        """The figure of each query, ``Q``."""


class RecallAtK(_RankMetric):
    """Share of a query's relevant passages among the first ``k``, mean over queries.

    With more than ``k`` relevant passages even a perfect ranking stays below 1. Among passages of equal score the
    relevant ones are taken to come last, so that not telling passages apart earns nothing.

    Args:
        k: Passages that are looked at.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        if k < 1:
            raise ConfigError(f"k {k} is not possible; look at the first 1 or more passages")
        super().__init__(**kwargs)
        self.k = k

    def _value(self, ranks_QP: Tensor, relevant_QP: Tensor) -> Tensor:
        found_Q = ((ranks_QP <= self.k) & relevant_QP).sum(1)
        return found_Q / relevant_QP.sum(1).clamp(min=1)


class MeanReciprocalRank(_RankMetric):
    """``1 / rank`` of the first relevant passage, mean over queries; equal scores as in :class:`RecallAtK`."""

    def _value(self, ranks_QP: Tensor, relevant_QP: Tensor) -> Tensor:
        return (relevant_QP / ranks_QP).amax(1)


def _rows(values: Tensor) -> Tensor:
    """``QP`` of one query or several."""
    return values if values.dim() == 2 else values[None]


def _ranks(scores_QP: Tensor, relevant_QP: Tensor, mask_QP: Tensor) -> Tensor:
    """Rank of each passage from 1, by score; at equal scores irrelevant before relevant, then by place."""
    n_passages = scores_QP.shape[1]
    # Three stable sorts, the last key first.
    order_QP = torch.argsort(relevant_QP.long(), dim=1, stable=True)
    for key_QP in (-scores_QP, (~mask_QP).long()):
        order_QP = order_QP.gather(1, torch.argsort(key_QP.gather(1, order_QP), dim=1, stable=True))
    places_QP = torch.arange(1, n_passages + 1, device=scores_QP.device).expand_as(order_QP)
    return torch.empty_like(order_QP).scatter_(1, order_QP, places_QP)
