"""One level: windows of equal length, one after the other. The recurrent chain without refinement."""

from __future__ import annotations

from r3mem.hierarchy.base import Hierarchy, Node, SegmentTree
from r3mem.hierarchy.document import Document


class Flat(Hierarchy):
    """Cuts a document every ``segment_tokens`` tokens; each segment is compressed with the memory of the one before."""

    def build(self, document: Document) -> SegmentTree:
        """See :meth:`Hierarchy.build`."""
        n_tokens = len(document.ids)
        starts = range(0, n_tokens, self.segment_tokens)
        return SegmentTree(document, [Node(start, min(start + self.segment_tokens, n_tokens)) for start in starts])

    def open(self, n_tokens: int) -> bool:
        """See :meth:`Hierarchy.open`."""
        return n_tokens < self.segment_tokens

    def source(self, tree: SegmentTree, index: int) -> int | None:
        """See :meth:`Hierarchy.source`."""
        return index - 1 if index else None
