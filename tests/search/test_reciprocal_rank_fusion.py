"""The shared tests for ``ReciprocalRankFusion`` of words and memories, and its scores by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from r3mem import Backbone, ConfigError, InputError
from r3mem.search import BM25, QueryLikelihood, RandomOrder, ReciprocalRankFusion, Searcher
from r3mem.search.reciprocal_rank_fusion import reciprocal_ranks
from tests.battery.searcher import PASSAGES, QUERY, SearcherBattery
from tests.tiny_models import tiny_r3mem


@pytest.fixture(scope="module")
def likelihood(tiny_backbone: Callable[..., Backbone]) -> QueryLikelihood:
    return QueryLikelihood(tiny_r3mem(tiny_backbone()))


class TestReciprocalRankFusion(SearcherBattery):
    finds = True

    @pytest.fixture
    def searcher(self, likelihood: QueryLikelihood) -> Searcher:
        likelihood.n_passages = 0
        return ReciprocalRankFusion([BM25(), likelihood])


class ByHand(Searcher):
    """Scores that are given."""

    def __init__(self, *given: float) -> None:
        self.given = list(given)

    def _index(self, passages: list[str]) -> None:
        if len(passages) != len(self.given):
            raise InputError("other passages")

    def _scores(self, query: str) -> list[float]:
        return self.given


def test_scores_by_hand() -> None:
    fused = ReciprocalRankFusion([ByHand(-3.0, -1.0, -2.0), ByHand(0.1, 0.3, 0.4)], constant=10)
    fused.index(["a", "b", "c"])
    assert fused.scores("?") == pytest.approx([1 / 13 + 1 / 13, 1 / 11 + 1 / 12, 1 / 12 + 1 / 11])


def test_equal_scores_share_the_mean_of_their_ranks() -> None:
    shares = [1 / 61, 1 / 63, 1 / 63, 1 / 63, 1 / 65]
    assert reciprocal_ranks([9.0, -7.0, -7.0, -7.00001, -8.0]) == pytest.approx(shares)
    # The gap is more than what rounding makes.
    assert reciprocal_ranks([-7.0, -7.001]) == pytest.approx([1 / 61, 1 / 62])


def test_what_words_do_not_find_has_no_rank_by_words(likelihood: QueryLikelihood) -> None:
    passages = ["a red castle", "a castle", "by a river"]
    fused = ReciprocalRankFusion([BM25(), likelihood])
    fused.index(passages)
    by_likelihood = reciprocal_ranks(likelihood.scores("red castle"))
    expected = [1 / 61, 1 / 62, 0.0]
    assert fused.scores("red castle") == pytest.approx([a + b for a, b in zip(expected, by_likelihood, strict=True)])
    assert fused.scores("dragon") == pytest.approx(reciprocal_ranks(likelihood.scores("dragon")))
    assert fused.positions_per_passage == likelihood.positions_per_passage


def test_only_words_and_no_match_at_all() -> None:
    words = ReciprocalRankFusion([BM25()])
    words.index(PASSAGES)
    assert words.scores(QUERY) == pytest.approx([1 / 61, 0, 0, 0, 0]) and words.positions_per_passage is None
    # What found nothing has no rank in a fusion of fusions either.
    outer = ReciprocalRankFusion([words, ByHand(1.0, 2.0, 3.0, 4.0, 5.0)])
    outer.index(PASSAGES)
    assert outer.scores("dragon") == pytest.approx([1 / 65, 1 / 64, 1 / 63, 1 / 62, 1 / 61])


def test_a_failed_index_of_one_leaves_nothing_indexed() -> None:
    fused = ReciprocalRankFusion([RandomOrder(), ByHand(1.0)])
    fused.index(["a"])
    with pytest.raises(InputError, match="other passages"):
        fused.index(["a", "b"])
    with pytest.raises(InputError, match="nothing is indexed"):
        fused.scores("?")


def test_impossible_settings() -> None:
    words = BM25()
    for searchers, options, message in (
        ([], {}, "at least one Searcher"), (words, {}, "at least one Searcher"), (["words"], {}, "str is none"),
        ([words, words], {}, "given twice"), ([words], {"constant": -1}, "constant -1"),
        ([words], {"constant": 0.5}, "whole number"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            ReciprocalRankFusion(searchers, **options)  # type: ignore[arg-type]
