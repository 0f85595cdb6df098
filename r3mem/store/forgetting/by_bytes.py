"""What is beyond a number of bytes is forgotten, the oldest first."""

from __future__ import annotations

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import is_whole
from r3mem.store.forgetting.base import Forgetting, oldest_first
from r3mem.store.shelf import Shelf


class ByBytes(Forgetting):
    """Keeps the newest entries whose texts have so many bytes in all.

    Args:
        most: Bytes of text that are kept at most.
    """

    def __init__(self, most: int) -> None:
        if not is_whole(most) or most < 0:
            raise ConfigError(f"ByBytes with most {most} is not possible: give a whole number from 0")
        self.most = most

    def run(self, shelf: Shelf) -> int:
        """See :class:`Forgetting`."""
        found = oldest_first(shelf)
        size, due = sum(e.bytes for e in found), list[str]()
        for entry in found:
            if size <= self.most:
                break
            due.append(entry.id)
            size -= entry.bytes
        return shelf.delete(due)
