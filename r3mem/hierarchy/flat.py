"""One level: windows of equal length, one after the other. The recurrent chain without refinement."""

from __future__ import annotations

from r3mem.hierarchy.base import Hierarchy, MemoryTree, Node


class Flat(Hierarchy):
    """Cuts a document every ``segment_tokens`` tokens."""

    def build(self, ids: list[int]) -> MemoryTree:
        """See :meth:`Hierarchy.build`."""
        starts = range(0, len(ids), self.segment_tokens)
        return MemoryTree(ids, [Node(start, min(start + self.segment_tokens, len(ids))) for start in starts])
