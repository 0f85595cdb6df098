"""The shared tests for ``BM25``, and its score by hand."""

import math

import pytest

from r3mem import ConfigError
from r3mem.search import BM25, Searcher
from tests.battery.searcher import SearcherBattery


class TestBM25(SearcherBattery):
    finds = True

    @pytest.fixture
    def searcher(self) -> Searcher:
        return BM25()


def test_score_by_hand() -> None:
    searcher = BM25(stopwords=None, k1=1.2, b=0.5)
    searcher.index(["cat cat dog", "dog", "bird bird"])
    mean_length = (3 + 1 + 2) / 3
    rarity = math.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    expected = rarity * 2 / (2 + 1.2 * (1 - 0.5 + 0.5 * 3 / mean_length))
    assert searcher.scores("Cat?") == pytest.approx([expected, 0, 0])


def test_stop_words_count_only_if_they_are_kept() -> None:
    passages = ["the the the", "a castle"]
    for stopwords, found in (("english", False), (None, True)):
        searcher = BM25(stopwords=stopwords)
        searcher.index(passages)
        assert (searcher.scores("the")[0] > 0) is found


@pytest.mark.parametrize("wrong", [{"stopwords": "klingon"}, {"k1": -1.0}, {"b": 1.5}])
def test_impossible_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="BM25"):
        BM25(**wrong)
