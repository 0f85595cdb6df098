"""BM25 over the text of the passages, by the ``bm25s`` library (the extra ``bm25``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r3mem.errors import ConfigError
from r3mem.errors.extras import importing
from r3mem.search.base import Searcher

if TYPE_CHECKING:
    import bm25s


class BM25(Searcher):
    """Okapi BM25 as ``bm25s`` has it: Lucene's variant, English stop words left out, no stemming.

    The defaults are the library's own; so are its words: two or more letters or digits, in lower case. Rarity of words
    is counted among the indexed passages, so a passage's score depends on the others.

    Args:
        stopwords: Language whose stop words are left out (``english``, ``german``, ...); None leaves none out.
        k1: Saturation of repeated words.
        b: Weight of a passage's length, 0 to 1.

    Raises:
        ConfigError: ``bm25s`` is not installed, or a setting is out of its range.
    """

    no_match = 0.0

    def __init__(self, stopwords: str | None = "english", k1: float = 1.5, b: float = 0.75) -> None:
        if k1 < 0 or not 0 <= b <= 1:
            raise ConfigError(f"BM25 with k1 {k1} and b {b} is not possible: k1 is at least 0, b from 0 to 1")
        self.stopwords, self.k1, self.b = stopwords, k1, b
        _library()
        try:
            self._words(["a word"])
        except ValueError as error:
            raise ConfigError(f"BM25: bm25s has no stop words for {stopwords!r} ({error})") from error
        self._retriever: bm25s.BM25 | None = None

    def _index(self, passages: list[str]) -> None:
        words = self._words(passages)
        self._retriever = None
        # Passages of stop words alone match nothing; the library divides by their mean length, 0.
        if any(words):
            self._retriever = _library().BM25(k1=self.k1, b=self.b)
            self._retriever.index(words, show_progress=False)

    def _scores(self, query: str) -> list[float]:
        words = self._words([query])[0]
        if self._retriever is None or not words:
            return [0.0] * self.n_passages
        return [float(score) for score in self._retriever.get_scores(words)]

    def _words(self, texts: list[str]) -> list[list[str]]:
        found: list[list[str]] = _library().tokenize(
            texts, stopwords=self.stopwords or [], return_ids=False, show_progress=False
        )
        return found


def _library() -> Any:
    with importing("bm25", "BM25"):
        import bm25s
    return bm25s
