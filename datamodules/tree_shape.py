"""What the trees of a data set have in common, so that rows of many documents fit into one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from r3mem.errors import ConfigError
from r3mem.hierarchy import Hierarchy, SegmentTree

UPWARDS_OR_BEFORE = "its parent, one of its parent's parents, or the segment before it on a one-level hierarchy"


@dataclass
class TreeShape:
    """Levels, and which segment a segment of each level is compressed with.

    Attributes:
        n_levels: Levels of the hierarchy.
        source: For each level that was met: the level of the source where it lies on the path from the top to the
            segment, -1 where it is elsewhere or nowhere.
        chained: For a one-level hierarchy: whether a segment's source is the one before it; None if no document had
            two segments.
    """

    n_levels: int
    source: dict[int, int] = field(default_factory=dict)
    chained: bool | None = None

    def __post_init__(self) -> None:
        self.source = {int(level): source for level, source in self.source.items()}

    @classmethod
    def of(cls, shapes: Sequence[TreeShape]) -> TreeShape:
        """The shape of the trees of several data sets that one hierarchy built.

        Args:
            shapes: Their shapes; at least one.
        """
        every = cls(shapes[0].n_levels)
        for shape in shapes:
            every.source.update(shape.source)
            every.chained = every.chained if shape.chained is None else shape.chained
        return every

    def sources(self, segments: int) -> list[int]:
        """``source_T`` of a row.

        Args:
            segments: T; the number of levels unless the hierarchy has only one.
        """
        if self.n_levels == 1:
            return [t - 1 if self.chained else -1 for t in range(segments)]
        return [self.source.get(level, -1) for level in range(self.n_levels)]

    def levels(self, segments: int) -> list[int]:
        """``level_T`` of a row; see :meth:`sources`."""
        return [0] * segments if self.n_levels == 1 else list(range(self.n_levels))

    def take(self, tree: SegmentTree, hierarchy: Hierarchy) -> None:
        """Learn from a tree.

        Args:
            tree: The tree.
            hierarchy: The hierarchy that built it.

        Raises:
            ConfigError: If two segments of a level differ in where their source lies.
        """
        for i, node in enumerate(tree.nodes):
            if not 0 <= node.level < self.n_levels:
                raise ConfigError(
                    f"{type(hierarchy).__name__} built a node of level {node.level}, but has ratios for "
                    f"{self.n_levels} levels: give a ratio for every level"
                )
            source = hierarchy.source(tree, i)
            if self.n_levels == 1:
                if i:
                    self._agree(hierarchy, self.chained, source == i - 1, source in (None, i - 1))
                    self.chained = source == i - 1
                continue
            found = -1
            above = node.parent
            while above is not None:
                if above == source:
                    found = tree.nodes[above].level
                above = tree.nodes[above].parent
            self._agree(hierarchy, self.source.get(node.level), found)
            self.source[node.level] = found

    @staticmethod
    def _agree(hierarchy: Hierarchy, before: int | bool | None, now: int | bool, possible: bool = True) -> None:
        if not possible or (before is not None and before != now):
            raise ConfigError(
                f"{type(hierarchy).__name__}.source differs between segments of one level: rows of a batch need the "
                f"same source at each level ({UPWARDS_OR_BEFORE})"
            )
