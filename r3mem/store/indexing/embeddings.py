"""Entries by sentence embeddings of their texts (the extra ``embeddings``)."""

from __future__ import annotations

from typing import Any

from r3mem.errors import ConfigError
from r3mem.store.indexing.base import Indexing
from r3mem.store.shelf import Shelf


class Embeddings(Indexing):
    """The first entries that full-text search finds, then the newest, ranked by embeddings of their recalled texts.

    Embeddings are made for each search and not kept: no vector of what was deleted stays anywhere.

    Args:
        model: Hub id, folder, or ``wheel:PACKAGE``, as of :class:`r3mem.search.Embeddings`.
        first: How many entries are ranked.
    """

    def __init__(self, model: str = "sentence-transformers/all-MiniLM-L6-v2", first: int = 100) -> None:
        if first < 1:
            raise ConfigError(f"Embeddings with first {first} is not possible: it is at least 1")
        self.model, self.first = model, first
        self._searcher: Any = None

    def rank(self, query: str, shelf: Shelf, k: int) -> list[tuple[str, float]]:
        """See :class:`Indexing`."""
        from r3mem.search import Embeddings as Searcher

        if self._searcher is None:
            self._searcher = Searcher(self.model)
        first = max(self.first, k)
        found = [id for id, _ in shelf.by_words(query, first)]
        ids = list(dict.fromkeys([*found, *shelf.newest(first)]))[:first]
        texts = {id: shelf.text(id) for id in ids}
        kept = [id for id in ids if texts[id].strip()]
        if not kept:
            return []
        self._searcher.index([texts[id] for id in kept])
        scores = self._searcher.scores(query)
        return sorted(zip(kept, scores, strict=True), key=lambda pair: -pair[1])[:k]
