"""Entries by their words."""

from __future__ import annotations

from r3mem.store.indexing.base import Indexing
from r3mem.store.shelf import Shelf


class FullText(Indexing):
    """Full-text search: any word of the query, the rarer the better (BM25). No model is needed."""

    def rank(self, query: str, shelf: Shelf, k: int) -> list[tuple[str, float]]:
        """See :class:`Indexing`."""
        return shelf.by_words(query, k)
