"""Several levels that do not know of one another: the control for refinement."""

from __future__ import annotations

from r3mem.hierarchy.base import SegmentTree
from r3mem.hierarchy.levelled import Levelled


class MultiLevel(Levelled):
    """Levels side by side: document chunks are a recurrent chain, all other segments are compressed with nothing."""

    def source(self, tree: SegmentTree, index: int) -> int | None:
        """See :meth:`Hierarchy.source`."""
        return index - 1 if index and tree.nodes[index].level == 0 else None
