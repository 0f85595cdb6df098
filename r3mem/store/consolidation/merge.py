"""The default."""

from __future__ import annotations

from r3mem.store.consolidation.base import Consolidation


class Merge(Consolidation):
    """The default."""
