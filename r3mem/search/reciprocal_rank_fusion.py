"""Several searchers as one: the ranks that they give a passage, as reciprocals, are added up."""

from __future__ import annotations

import math
from collections.abc import Sequence

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.search.base import Searcher

#: What Cormack et al. (2009) add to every rank, so that the first places of one ranking do not decide alone.
CONSTANT = 60
#: Scores that are nearer than this share of themselves differ by rounding, and share a rank.
ROUNDING = 1e-5


class ReciprocalRankFusion(Searcher):
    """Scores are sums of ``1 / (constant + rank)`` over several searchers (Cormack et al. 2009, SIGIR).

    Ranks alone count, so searchers go together whose scores cannot be compared. A passage in which a searcher found
    nothing (:attr:`Searcher.no_match`) has no rank there, and gets nothing from it. Words and likelihood together::

        ReciprocalRankFusion([BM25(), QueryLikelihood(model)])

    Args:
        searchers: What is fused; each has an index of its own.
        constant: What is added to every rank; the larger, the less the first places count.

    Raises:
        ConfigError: No searchers, something else among them, or a constant that is not possible.
    """

    no_match = 0.0

    def __init__(self, searchers: Sequence[Searcher], constant: int = CONSTANT) -> None:
        if not isinstance(searchers, list | tuple) or not searchers:
            raise ConfigError("searchers are a list of at least one Searcher, such as [BM25(), QueryLikelihood(model)]")
        other = next((one for one in searchers if not isinstance(one, Searcher)), None)
        if other is not None:
            raise ConfigError(f"searchers are of r3mem.search.Searcher, {type(other).__name__} is none: make one of it")
        if len({id(one) for one in searchers}) < len(searchers):
            raise ConfigError("one searcher is given twice: make another, or leave it out")
        self.searchers, self.constant = searchers, whole_setting(constant, "constant", 0)

    @property
    def positions_per_passage(self) -> float | None:
        """Sum over the searchers that read passages; None where none does."""
        counts = [one.positions_per_passage for one in self.searchers]
        read = [count for count in counts if count is not None]
        return sum(read) if read else None

    def _index(self, passages: list[str]) -> None:
        for searcher in self.searchers:
            searcher.index(passages)

    def _scores(self, query: str) -> list[float]:
        parts = [reciprocal_ranks(one.scores(query), one.no_match, self.constant) for one in self.searchers]
        return [math.fsum(shares) for shares in zip(*parts, strict=True)]


def reciprocal_ranks(scores: Sequence[float], no_match: float | None = None, constant: int = CONSTANT) -> list[float]:
    """``1 / (constant + rank)`` for each score; the best has rank 1, equal ones the mean of their ranks.

    Args:
        scores: Higher is better.
        no_match: The score of what has no rank, and gets 0; None where all have one.
        constant: What is added to every rank.
    """
    shares = [0.0] * len(scores)
    best_first = sorted((i for i, score in enumerate(scores) if score != no_match), key=lambda i: -scores[i])
    at = 0
    while at < len(best_first):
        end = at + 1
        while end < len(best_first) and _equal(scores[best_first[end - 1]], scores[best_first[end]]):
            end += 1
        for i in best_first[at:end]:
            shares[i] = 1 / (constant + (at + 1 + end) / 2)
        at = end
    return shares


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ROUNDING)
