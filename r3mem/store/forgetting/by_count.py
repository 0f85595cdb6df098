"""What is beyond a number is forgotten, the oldest first."""

from __future__ import annotations

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import is_whole
from r3mem.store.forgetting.base import Forgetting, oldest_first
from r3mem.store.shelf import Shelf


class ByCount(Forgetting):
    """Keeps the newest entries of a scope; a coarser memory counts as one.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int) -> None:
        if not is_whole(most) or most < 0:
            raise ConfigError(f"ByCount with most {most} is not possible: give a whole number from 0")
        self.most = most

    def run(self, shelf: Shelf) -> int:
        """See :class:`Forgetting`."""
        found = oldest_first(shelf)
        return shelf.delete([e.id for e in found[: max(0, len(found) - self.most)]])
