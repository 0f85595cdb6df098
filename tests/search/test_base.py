"""What all searchers inherit."""

import pytest

from r3mem.search import Searcher


class ByLength(Searcher):
    """Short passages first."""

    def _index(self, passages: list[str]) -> None:
        if "fail" in passages:
            raise RuntimeError("a passage that cannot be read")
        self._passages = passages

    def _scores(self, query: str) -> list[float]:
        return [-float(len(passage)) for passage in self._passages]


def test_equal_scores_keep_the_order_of_the_index() -> None:
    searcher = ByLength()
    searcher.index(["bb", "a", "cc", "d", "ee"])
    assert searcher.rank("?") == [1, 3, 0, 2, 4]


def test_a_failed_index_leaves_nothing_indexed() -> None:
    searcher = ByLength()
    searcher.index(["a"])
    with pytest.raises(RuntimeError):
        searcher.index(["a", "fail"])
    assert searcher.n_passages == 0


def test_no_positions_where_no_model_reads() -> None:
    assert ByLength().positions_per_passage is None
