"""A hierarchy for tests: three levels of fixed windows, top down, with two queries for every node but a few."""

from __future__ import annotations

from r3mem.hierarchy import Hierarchy, Node, SegmentTree
from r3mem.hierarchy.document import Document


class Windows(Hierarchy):
    """Windows inside windows.

    Args:
        segment_tokens: Tokens of a leaf.
        query_tokens: Most tokens of a query.
        widths: Tokens of the levels above, as multiples of the one below.
        independent: Levels are compressed without one another.
    """

    level_names = ("document", "paragraph", "entity")

    def __init__(
        self,
        segment_tokens: int = 4,
        query_tokens: int = 16,
        widths: tuple[int, ...] = (2, 2),
        independent: bool = False,
    ) -> None:
        super().__init__(segment_tokens, query_tokens)
        self.widths, self.independent = list(widths), independent

    @property
    def ratios(self) -> list[int | None]:
        return [None] * (len(self.widths) + 1)

    def build(self, document: Document) -> SegmentTree:
        sizes = [self.segment_tokens]
        for width in reversed(self.widths):
            sizes.insert(0, sizes[0] * width)
        tree = SegmentTree(document)
        self._cut(tree, 0, len(document.ids), sizes, 0, None)
        return tree

    def _cut(self, tree: SegmentTree, start: int, end: int, sizes: list[int], level: int, parent: int | None) -> None:
        for first in range(start, end, sizes[level]):
            last = min(first + sizes[level], end)
            begin, stop = tree.chars(Node(first, last))
            inside = tuple(m for m in tree.document.mentions or () if begin <= m.start < stop)
            tree.nodes.append(Node(first, last, level, parent, inside))
            if level + 1 < len(sizes):
                self._cut(tree, first, last, sizes, level + 1, len(tree.nodes) - 1)

    def source(self, tree: SegmentTree, index: int) -> int | None:
        if tree.nodes[index].level == 0:
            return next((i for i in range(index - 1, -1, -1) if tree.nodes[i].level == 0), None)
        return None if self.independent else tree.nodes[index].parent

    def queries(self, tree: SegmentTree, index: int) -> list[str]:
        node = tree.nodes[index]
        start, end = tree.chars(node)
        asked = [q.text for q in tree.document.questions if any(start <= a and b <= end for a, b in q.spans)]
        made = [] if node.start % 5 == 4 else [f"{node.level}:{node.start}", f"{node.level}:{node.start}, again"]
        return [*made, *asked]
