"""How many calls work at the same time, how many wait, and when one more is refused."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Given_back = TypeVar("Given_back")


class Busy(Exception):
    """One more call would wait too long.

    Attributes:
        seconds: After which it may try again.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"more requests wait than this server takes: try again in {seconds} s")
        self.seconds = seconds


class Gate:
    """Lets so many calls work at once, and so many wait.

    Args:
        at_once: Calls that work at the same time.
        queue: Calls that wait at most.
    """

    #: How much the last call counts in the mean time of a call.
    NEWEST = 0.2

    def __init__(self, at_once: int, queue: int) -> None:
        self.working, self.waiting = 0, 0
        self._at_once, self._queue, self._seconds = at_once, queue, 0.0
        self._free = asyncio.Semaphore(at_once)

    async def run(self, call: Callable[[], Awaitable[Given_back]]) -> Given_back:
        """Make a call when it is its turn.

        A call whose client has gone holds its place until it ends, since the thread that it works in does so too.

        Args:
            call: Begins the work.

        Raises:
            Busy: Too many wait already.
        """
        if self._free.locked() and self.waiting >= self._queue:
            raise Busy(self._until_free())
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.working += 1
        begun = time.monotonic()
        work = asyncio.ensure_future(call())
        work.add_done_callback(lambda done: self._ended(done, begun))
        return await asyncio.shield(work)

    def _ended(self, work: asyncio.Future[Given_back], begun: float) -> None:
        self.working -= 1
        self._free.release()
        self._seconds += self.NEWEST * (time.monotonic() - begun - self._seconds)
        if not work.cancelled():
            # Nobody may be there any more to be told of it.
            work.exception()

    def _until_free(self) -> int:
        return min(60, max(1, math.ceil(self._seconds * (self.waiting + 1) / self._at_once)))
