"""What is old is forgotten."""

from __future__ import annotations

from datetime import timedelta

from r3mem.errors import ConfigError
from r3mem.store.forgetting.base import Forgetting, oldest_first
from r3mem.store.shelf import Shelf

#: Longer ago is before the year 1 already.
MOST_DAYS = 700_000


class ByAge(Forgetting):
    """Erases entries whose time is longer ago than some days; a coarser memory has the time of its newest part.

    Args:
        days: How many.
    """

    def __init__(self, days: float) -> None:
        if not 0 <= days <= MOST_DAYS:
            raise ConfigError(f"ByAge with days {days} is not possible: give 0 to {MOST_DAYS:,}")
        self.days = days

    def run(self, shelf: Shelf) -> int:
        """See :class:`Forgetting`."""
        before = shelf.now() - timedelta(days=self.days)
        return shelf.delete([e.id for e in oldest_first(shelf) if e.time < before])
