"""How far a long call is, told to Python's ``logging``. A library is quiet: a program that wants the lines asks.

::

    logging.basicConfig(level=logging.INFO)    # retain: 120 of 800 segments, 11.3 segments/s, 1:00 left
"""

from __future__ import annotations

import logging
import time

#: Between two lines.
SECONDS = 10.0
log = logging.getLogger(__name__)


class Progress:
    """Tells how much of a call is done, at most every `SECONDS`, and the end of one that was told of.

    Args:
        call: What is called.
        total: How much there is to do.
        unit: What is counted.
    """

    def __init__(self, call: str, total: int, unit: str) -> None:
        self.call, self.total, self.unit = call, total, unit
        self._done, self._lines = 0, 0
        self._began = self._told = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """So much more is done.

        Args:
            count: How much.
        """
        self._done += count
        now, ended = time.monotonic(), self._done >= self.total
        if now - self._told < SECONDS and not (ended and self._lines):
            return
        self._told, self._lines = now, self._lines + 1
        speed = self._done / max(1e-9, now - self._began)
        minutes, seconds = divmod(round((self.total - self._done) / speed if not ended else now - self._began), 60)
        log.info(
            "%s: %d of %d %s, %.3g %s/s, %s%d:%02d%s",
            *(self.call, self._done, self.total, self.unit, speed, self.unit),
            *("took " if ended else "", minutes, seconds, "" if ended else " left"),
        )
