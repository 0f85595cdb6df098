"""What a segmenter is, and how its cuts become segments that are short enough."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

from r3mem.hierarchy.document import Document
from r3mem.plain_data.components import Component


class Segmenter(Component, ABC):
    """Says where a stretch of a document may be cut.

    Attributes:
        finer: Cuts what is still too long after this segmenter's cuts; None leaves that to windows of tokens.
    """

    finer: Segmenter | None = None

    @abstractmethod
    def cut(self, document: Document, start: int, end: int, tokens: int) -> list[int]:
        """Characters at which a stretch of a document is cut, in order, its ends left out.

        Pieces should hold at most ``tokens`` tokens; those that hold more are cut further by whoever calls. A cut that
        falls inside a token moves to the beginning of that token.

        Args:
            document: The document.
            start: First character of the stretch.
            end: One past its last.
            tokens: Most tokens of a piece.
        """

    def pieces(self, document: Document, first: int, last: int, tokens: int) -> list[tuple[int, int]]:
        """Cut a stretch of tokens into pieces that hold at most ``tokens`` of them.

        Neighbouring pieces are packed together as far as they fit; what is left of a piece that had to be cut further
        is not packed with its neighbours, so that the end of a long chapter stays apart from the next.

        Args:
            document: The document.
            first: First token of the stretch.
            last: One past its last token.
            tokens: Most tokens of a piece.

        Returns:
            ``(first, last)`` of each piece; they tile the stretch.
        """
        if last - first <= tokens:
            return [(first, last)]
        cuts = {
            document.token_at(char) for char in self.cut(document, document.char(first), document.char(last), tokens)
        }
        borders = [first, *sorted(cut for cut in cuts if first < cut < last), last]
        pieces: list[tuple[int, int]] = []
        packs = False
        for begin, end in pairwise(borders):
            if end - begin > tokens:
                finer = self.finer
                pieces += (
                    windows(document, begin, end, tokens)
                    if finer is None
                    else finer.pieces(document, begin, end, tokens)
                )
                packs = False
            elif packs and end - pieces[-1][0] <= tokens:
                pieces[-1] = (pieces[-1][0], end)
            else:
                pieces.append((begin, end))
                packs = True
        return pieces


def windows(document: Document, first: int, last: int, tokens: int) -> list[tuple[int, int]]:
    """Pieces of ``tokens`` tokens, less where one would end inside a character that the next can hold whole.

    Args:
        document: The document.
        first: First token of the stretch.
        last: One past its last token.
        tokens: Most tokens of a piece.
    """
    pieces = []
    while first < last:
        end = min(first + tokens, last)
        whole = end
        while whole in document.inside and whole > first:
            whole -= 1
        # A character of more tokens than a piece may hold is cut through.
        end = whole if whole > first else end
        pieces.append((first, end))
        first = end
    return pieces
