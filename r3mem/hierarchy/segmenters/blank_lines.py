"""Paragraphs, as plain text marks them: by blank lines."""

from __future__ import annotations

from r3mem.hierarchy.document import Document
from r3mem.hierarchy.paragraph_ends import PARAGRAPH_END
from r3mem.hierarchy.segmenters.base import Segmenter


class BlankLines(Segmenter):
    """Cuts where a line follows a blank one. The blank lines belong to the paragraph before.

    Args:
        finer: Cuts paragraphs that are still too long; None leaves that to windows of tokens.
    """

    def __init__(self, finer: Segmenter | None = None) -> None:
        self.finer = finer

    def cut(self, document: Document, start: int, end: int, tokens: int) -> list[int]:
        """See :meth:`Segmenter.cut`."""
        ends = (match.end() for match in PARAGRAPH_END.finditer(document.text, start, end))
        return [char for char in ends if start < char < end]
