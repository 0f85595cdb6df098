"""The seam: what is forgotten."""

from __future__ import annotations

from abc import ABC, abstractmethod

from r3mem.store.entries import Entry
from r3mem.store.shelf import Shelf


class Forgetting(ABC):
    """Runs on demand."""

    @abstractmethod
    def run(self, shelf: Shelf) -> int:
        """Erase, or merge away, what is due; how many entries.

        Args:
            shelf: The entries of the scope.
        """


def oldest_first(shelf: Shelf) -> list[Entry]:
    """Entries by time, without the parts of coarser memories: those go with them.

    Args:
        shelf: The entries of the scope.
    """
    return sorted((e for e in shelf.entries() if e.part_of is None), key=lambda e: (e.time, e.created))
