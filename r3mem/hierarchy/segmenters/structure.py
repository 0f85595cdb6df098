"""The parts that a document itself marks."""

from __future__ import annotations

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.hierarchy.document import Document
from r3mem.hierarchy.segmenters.base import Segmenter


class Structure(Segmenter):
    """Cuts where a chapter, a section or a turn begins. What lies between two parts belongs to the part before.

    Args:
        depth: Deepest kind of part to cut at; 0 for the coarsest.
        finer: Cuts parts that are still too long, and documents that mark none; None leaves that to windows of tokens.
    """

    def __init__(self, depth: int = 0, finer: Segmenter | None = None) -> None:
        if whole_setting(depth, "depth") < 0:
            raise ConfigError(f"depth {depth} is not possible; 0 is the coarsest kind of part")
        self.depth, self.finer = depth, finer

    def cut(self, document: Document, start: int, end: int, tokens: int) -> list[int]:
        """See :meth:`Segmenter.cut`."""
        begins = {part.start for part in document.parts if part.depth <= self.depth}
        return sorted(char for char in begins if start < char < end)
