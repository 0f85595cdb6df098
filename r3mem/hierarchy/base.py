"""SEAM 3: how a document is cut into segments, and how the segments lie above one another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import check_whole
from r3mem.hierarchy.document import Document, Mention


@dataclass
class Node:
    """One segment of a document.

    Attributes:
        start: First token of the segment in the document.
        end: One past its last token.
        level: 0 is the document level; deeper levels are finer.
        parent: Index of the node that this one refines, in the tree's list of nodes; None at the top.
        mentions: Entity mentions that begin in the segment, in characters of the document; none where no level makes
            queries and the document has none marked.
    """

    start: int
    end: int
    level: int = 0
    parent: int | None = None
    mentions: tuple[Mention, ...] = ()


@dataclass
class SegmentTree:
    """The segments of one document, parents before children.

    Attributes:
        document: The document.
        nodes: Its segments. The leaves, in order, tile the document without gap or overlap.
    """

    document: Document
    nodes: list[Node] = field(default_factory=list)

    @property
    def leaves(self) -> list[Node]:
        """Nodes that no other node refines, in document order."""
        parents = {node.parent for node in self.nodes}
        leaves = [node for i, node in enumerate(self.nodes) if i not in parents]
        return sorted(leaves, key=lambda node: node.start)

    def ids(self, node: Node) -> list[int]:
        """Token ids of a segment."""
        return self.document.ids[node.start : node.end]

    def chars(self, node: Node) -> tuple[int, int]:
        """First character of a segment in the document, and one past its last."""
        return self.document.char(node.start), self.document.char(node.end)

    def text(self, node: Node) -> str:
        """Text of a segment."""
        first, last = self.chars(node)
        return self.document.text[first:last]


class Hierarchy(ABC):
    """Cuts a document into a tree of segments, and says what each segment is compressed with.

    A subclass stores each constructor argument in an attribute of the same name: saving and loading depend on it.

    Args:
        segment_tokens: Most tokens of one leaf.
        query_tokens: Most tokens of a query.
    """

    def __init__(self, segment_tokens: int = 256, query_tokens: int = 16) -> None:
        check_whole(segment_tokens=segment_tokens, query_tokens=query_tokens)
        if segment_tokens < 1:
            raise ConfigError(f"segment_tokens {segment_tokens} is not possible; a segment holds at least one token")
        if query_tokens < 2:
            raise ConfigError(f"query_tokens {query_tokens} is not possible; the first token of a query is not scored")
        self.segment_tokens, self.query_tokens = segment_tokens, query_tokens

    @property
    def ratios(self) -> list[int | None]:
        """Text tokens per virtual token of each level, coarsest first; None is the compressor's own."""
        return [None]

    @property
    def level_names(self) -> Sequence[str]:
        """Names of the levels, coarsest first; empty where they have none."""
        return ()

    @abstractmethod
    def build(self, document: Document) -> SegmentTree:
        """The tree of a document.

        Args:
            document: The document.
        """

    @abstractmethod
    def source(self, tree: SegmentTree, index: int) -> int | None:
        """Which node's memory a segment is compressed with: an index before its own, or None for nothing.

        Args:
            tree: The tree.
            index: The segment, as an index of the tree's nodes.
        """

    def open(self, n_tokens: int) -> bool:
        """Whether a last segment of so many tokens is filled up before what follows begins a new one.

        Args:
            n_tokens: Tokens of the last segment.
        """
        return False

    def queries(self, tree: SegmentTree, index: int) -> list[str]:
        """Short texts that name a segment, best first; may be empty.

        Args:
            tree: The tree.
            index: The segment, as an index of the tree's nodes.
        """
        return []

    def query(self, ids: list[int]) -> list[int]:
        """A short text that names a segment of which only the ids are known: its lead.

        Args:
            ids: Token ids of the segment.
        """
        return ids[: self.query_tokens]
