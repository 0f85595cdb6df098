"""What the verbs of a store work with."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from r3mem.store.blobs import BlobPlace
from r3mem.store.database import Database
from r3mem.store.models import ModelOnNeed


class Clock:
    """Microseconds since 1970, never the same twice: entries are in the order in which they were added."""

    def __init__(self) -> None:
        self._guard, self._last = threading.Lock(), 0

    def now(self) -> int:
        """The time."""
        with self._guard:
            self._last = max(self._last + 1, time.time_ns() // 1000)
            return self._last


@dataclass
class Parts:
    """What the verbs of a store work with.

    Attributes:
        database: Where all is kept.
        blobs: Where virtual tokens are kept; None for inside the database.
        model: What compresses and recalls.
        keep_text: Whether raw texts stay.
        clock: Tells the time.
        unerased: Why bytes of what was deleted are left, where the database could not take in the reason.
    """

    database: Database
    blobs: BlobPlace | None
    model: ModelOnNeed
    keep_text: bool
    clock: Clock = field(default_factory=Clock)
    unerased: str | None = None
