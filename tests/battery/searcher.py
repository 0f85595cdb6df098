"""What every way of searching has to keep. A new searcher gets these tests by one fixture.

```python
class TestMySearcher(SearcherBattery):
    @pytest.fixture
    def searcher(self) -> Searcher:
        return MySearcher()
```

A searcher that reads the passages, and not a draw, also finds the one that is meant: override ``finds`` to ask for it.
One whose score of a passage does not depend on the other passages takes ``PassageBattery``.
"""

from __future__ import annotations

from typing import ClassVar

import pytest

from r3mem import InputError
from r3mem.search import Searcher

PASSAGES = [
    "Merlin\nMerlin was a wizard.",
    "Camelot\nThe castle of King Arthur stood by a river, and many towers rose above its walls.",
    "Lancelot\nHe drew his sword -- naïve, 24 € -- and spake 漢字.",
    "Ships\nTen.",
    "Swallow\nAn unladen swallow flies at some eleven metres a second.",
]
QUERY = "Which wizard was Merlin?"
ORDER = [3, 0, 4, 2, 1]


class SearcherBattery:
    """Shared tests; a subclass gives the searcher by a fixture, not yet indexed.

    Attributes:
        tolerance: By how much scores may differ that would be equal without rounding.
        finds: Whether the passage that ``QUERY`` is about must come first.
    """

    tolerance: ClassVar[float] = 1e-6
    finds: ClassVar[bool] = False

    def test_a_score_for_each_passage_in_its_order(self, searcher: Searcher) -> None:
        searcher.index(PASSAGES)
        scores = searcher.scores(QUERY)
        assert len(scores) == len(PASSAGES) and all(type(score) is float for score in scores)
        assert len({round(score, 4) for score in scores}) > 1
        ranked = searcher.rank(QUERY)
        assert sorted(ranked) == list(range(len(PASSAGES)))
        assert [scores[i] for i in ranked] == pytest.approx(sorted(scores, reverse=True), abs=self.tolerance)
        if self.finds:
            assert ranked[0] == 0

    def test_the_order_of_passages_changes_no_score(self, searcher: Searcher) -> None:
        searcher.index(PASSAGES)
        scores = searcher.scores(QUERY)
        searcher.index([PASSAGES[i] for i in ORDER])
        assert searcher.scores(QUERY) == pytest.approx([scores[i] for i in ORDER], abs=self.tolerance)

    def test_equal_passages_have_equal_scores(self, searcher: Searcher) -> None:
        searcher.index([*PASSAGES, *PASSAGES])
        scores = searcher.scores(QUERY)
        assert scores[: len(PASSAGES)] == pytest.approx(scores[len(PASSAGES) :], abs=self.tolerance)

    def test_a_query_leaves_nothing_behind(self, searcher: Searcher) -> None:
        searcher.index(PASSAGES)
        first = searcher.scores(QUERY)
        assert searcher.scores("Where was the castle?") != first
        assert searcher.scores(QUERY) == first

    def test_a_second_index_replaces_the_first(self, searcher: Searcher) -> None:
        searcher.index(PASSAGES)
        searcher.index(PASSAGES[:2])
        assert len(searcher.scores(QUERY)) == searcher.n_passages == 2

    def test_a_question_needs_an_index_and_a_word(self, searcher: Searcher) -> None:
        with pytest.raises(InputError, match="nothing is indexed"):
            searcher.scores(QUERY)
        with pytest.raises(InputError, match="nothing is indexed"):
            searcher.rank(QUERY)
        searcher.index(PASSAGES)
        for blank in ("", " \n"):
            with pytest.raises(InputError, match="the query is empty"):
                searcher.rank(blank)

    def test_there_must_be_passages_that_hold_something(self, searcher: Searcher) -> None:
        for passages, message in (
            ([], "no passages"), (["a word", " \n"], "passage 1 is empty"), ("a word", "one string"),
        ):  # fmt: skip
            with pytest.raises(InputError, match=message):
                searcher.index(passages)

    def test_words_that_nobody_knows(self, searcher: Searcher) -> None:
        searcher.index(PASSAGES)
        assert len(searcher.scores("?!")) == len(PASSAGES)
        searcher.index(["the", "?!"])
        assert len(searcher.scores("qwertyuiop")) == 2


class PassageBattery(SearcherBattery):
    """For searchers that score a passage by itself, whatever else is indexed."""

    def test_together_as_alone(self, searcher: Searcher) -> None:
        searcher.index(PASSAGES)
        together = searcher.scores(QUERY)
        alone = []
        for passage in PASSAGES:
            searcher.index([passage])
            alone += searcher.scores(QUERY)
        assert together == pytest.approx(alone, abs=self.tolerance)
