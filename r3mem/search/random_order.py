"""Passages in an arbitrary order: what any search has to beat."""

from __future__ import annotations

import hashlib

from r3mem.search.base import Searcher


class RandomOrder(Searcher):
    """Scores are uniform numbers from 0 to 1, set by seed, query and passage alone: equal passages score alike.

    Args:
        seed: Another seed gives another order.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._passages: list[str] = []

    def _index(self, passages: list[str]) -> None:
        self._passages = passages

    def _scores(self, query: str) -> list[float]:
        return [self._score(query, passage) for passage in self._passages]

    def _score(self, query: str, passage: str) -> float:
        # Through repr a line end in one text cannot be taken for the border between two.
        drawn = hashlib.blake2b(repr((self.seed, query, passage)).encode("utf-8", "surrogatepass"), digest_size=7)
        return int.from_bytes(drawn.digest(), "big") / 2**56
