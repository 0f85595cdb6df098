"""Policies of consolidation: what merges old entries into coarser memories."""

from r3mem.store.consolidation.base import Consolidation
from r3mem.store.consolidation.merge import Merge

__all__ = ["Consolidation", "Merge"]
