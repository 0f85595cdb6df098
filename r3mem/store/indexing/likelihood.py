"""Entries by how likely the query is after their memories."""

from __future__ import annotations

from r3mem.errors import ConfigError
from r3mem.store.indexing.base import Indexing
from r3mem.store.shelf import Shelf


class Likelihood(Indexing):
    """The first entries that full-text search finds, ranked by ``log p(query | memory)``; no text is read.

    Where no word is found, the newest entries are ranked. What is pending is compressed first.

    Args:
        first: How many entries are ranked.
        batch: Memories read at a time.
    """

    def __init__(self, first: int = 50, batch: int = 16) -> None:
        if first < 1 or batch < 1:
            raise ConfigError(f"Likelihood with first {first} and batch {batch} is not possible: both are at least 1")
        self.first, self.batch = first, batch

    def rank(self, query: str, shelf: Shelf, k: int) -> list[tuple[str, float]]:
        """See :class:`Indexing`."""
        from r3mem.store.memories import query_likelihoods

        first = max(self.first, k)
        ids = [id for id, _ in shelf.by_words(query, first)] or shelf.newest(first)
        if not ids:
            return []
        scores = query_likelihoods(shelf.model(), [shelf.memory(id) for id in ids], query, self.batch)
        return sorted(zip(ids, scores, strict=True), key=lambda pair: -pair[1])[:k]
