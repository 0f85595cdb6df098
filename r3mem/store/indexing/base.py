"""The seam: what finds and ranks entries for a query."""

from __future__ import annotations

from abc import ABC, abstractmethod

from r3mem.store.shelf import Shelf


class Indexing(ABC):
    """Finds entries. The words of all entries are indexed whatever ranks them: what was deleted is in no index."""

    @abstractmethod
    def rank(self, query: str, shelf: Shelf, k: int) -> list[tuple[str, float]]:
        """Ids of entries and scores, best first.

        Args:
            query: Words or a question; not empty.
            shelf: The entries of the scope.
            k: How many at most.
        """
