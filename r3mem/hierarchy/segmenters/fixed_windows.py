"""Windows of equal length: the baseline that every other segmenter is compared with."""

from __future__ import annotations

from r3mem.hierarchy.document import Document
from r3mem.hierarchy.segmenters.base import Segmenter, windows


class FixedWindows(Segmenter):
    """Cuts every so many tokens, whatever stands there; never inside a character that a window can hold."""

    def cut(self, document: Document, start: int, end: int, tokens: int) -> list[int]:
        """See :meth:`Segmenter.cut`."""
        pieces = windows(document, document.token_at(start), document.token_at(end), tokens)
        return [document.char(first) for first, _ in pieces[1:] if first not in document.inside]
