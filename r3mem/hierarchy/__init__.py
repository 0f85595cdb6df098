"""SEAM 3: hierarchies, document to tree of segments."""

from r3mem.hierarchy.base import Hierarchy, MemoryTree, Node
from r3mem.hierarchy.document import Document, Mention, Part, Question
from r3mem.hierarchy.flat import Flat

__all__ = ["Document", "Flat", "Hierarchy", "MemoryTree", "Mention", "Node", "Part", "Question"]
