"""A text put together from pieces, where every piece knows the characters that it came to stand at."""

from __future__ import annotations


class AssembledText:
    """Grows at its end."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        #: Characters so far.
        self.length = 0

    def add(self, piece: str, separator: str = "") -> tuple[int, int]:
        """Put a piece at the end.

        Args:
            piece: The piece.
            separator: What stands between it and the piece before; nothing at the beginning of the text.

        Returns:
            The piece's first character and one past its last.
        """
        if self.length and separator:
            self._pieces.append(separator)
            self.length += len(separator)
        self._pieces.append(piece)
        start, self.length = self.length, self.length + len(piece)
        return start, self.length

    def __str__(self) -> str:
        return "".join(self._pieces)
