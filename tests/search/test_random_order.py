"""The shared tests for ``RandomOrder``, and that it is spread evenly."""

import pytest

from r3mem.search import RandomOrder, Searcher
from tests.battery.searcher import PASSAGES, QUERY, PassageBattery


class TestRandomOrder(PassageBattery):
    @pytest.fixture
    def searcher(self) -> Searcher:
        return RandomOrder(seed=3)


def test_seeds_and_queries_draw_anew() -> None:
    first, second = RandomOrder(0), RandomOrder(1)
    first.index(PASSAGES)
    second.index(PASSAGES)
    assert first.scores(QUERY) != second.scores(QUERY) != first.scores("Who?")


def test_scores_are_uniform() -> None:
    searcher = RandomOrder()
    searcher.index([str(i) for i in range(4000)])
    scores = searcher.scores(QUERY)
    assert all(0 <= score < 1 for score in scores)
    for edge in (0.25, 0.5, 0.75):
        assert sum(score < edge for score in scores) / len(scores) == pytest.approx(edge, abs=0.03)
