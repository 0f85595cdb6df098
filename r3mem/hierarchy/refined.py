"""Compression that refines, from document to entity."""

from __future__ import annotations

from r3mem.hierarchy.base import SegmentTree
from r3mem.hierarchy.levelled import Levelled


class Refined(Levelled):
    """Top down: a segment is compressed with the memory of the one it refines, a document chunk with the chunk before.

    ```
    chunk 0 -----------> chunk 1 ------> ...     the recurrent chain: unlimited histories
      |-> paragraph        |-> paragraph
      |     |-> entity     |     |-> entity      read: the memory of the segment above
      |     '-> entity     ...
      '-> paragraph
    ```
    """

    def source(self, tree: SegmentTree, index: int) -> int | None:
        """See :meth:`Hierarchy.source`."""
        node = tree.nodes[index]
        if node.level == 0:
            return index - 1 if index else None
        return node.parent
