"""The seam: what merges old entries into coarser memories."""

from __future__ import annotations

from abc import ABC, abstractmethod

from r3mem.store.reports import Consolidated
from r3mem.store.shelf import Shelf


class Consolidation(ABC):
    """Runs on demand."""

    @abstractmethod
    def run(self, shelf: Shelf) -> Consolidated:
        """Merge what is due.

        Args:
            shelf: The entries of the scope.
        """
