"""SEAM 3: how a document is cut into segments, and how the segments lie above one another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from r3mem.errors import ConfigError


@dataclass
class Node:
    """One segment of a document.

    Attributes:
        start: First token of the segment in the document.
        end: One past its last token.
        level: 0 is the document level; deeper levels are finer.
        parent: Index of the node that this one refines, in the tree's list of nodes; None at the top.
    """

    start: int
    end: int
    level: int = 0
    parent: int | None = None


@dataclass
class MemoryTree:
    """The segments of one document, parents before children.

    Attributes:
        ids: Token ids of the whole document.
        nodes: Its segments. The leaves, in order, tile the document without gap or overlap.
    """

    ids: list[int]
    nodes: list[Node] = field(default_factory=list)

    @property
    def leaves(self) -> list[Node]:
        """Nodes that no other node refines, in document order."""
        parents = {node.parent for node in self.nodes}
        leaves = [node for i, node in enumerate(self.nodes) if i not in parents]
        return sorted(leaves, key=lambda node: node.start)


class Hierarchy(ABC):
    """Cuts a document into a tree of segments.

    A subclass stores each constructor argument in an attribute of the same name: saving and loading depend on it.

    Args:
        segment_tokens: Most tokens of one leaf.
        query_tokens: Most tokens of a query.
    """

    def __init__(self, segment_tokens: int = 256, query_tokens: int = 16) -> None:
        if segment_tokens < 1:
            raise ConfigError(f"segment_tokens {segment_tokens} is not possible; a segment holds at least one token")
        if query_tokens < 2:
            raise ConfigError(f"query_tokens {query_tokens} is not possible; the first token of a query is not scored")
        self.segment_tokens, self.query_tokens = segment_tokens, query_tokens

    @abstractmethod
    def build(self, ids: list[int]) -> MemoryTree:
        """The tree of a document.

        Args:
            ids: Token ids of the document.
        """

    def query(self, ids: list[int]) -> list[int]:
        """A short text that names a segment: its lead.

        Args:
            ids: Token ids of the segment.
        """
        return ids[: self.query_tokens]
