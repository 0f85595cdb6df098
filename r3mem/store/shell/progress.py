"""How far a command is: a bar in a terminal, else a line now and then. Both on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from r3mem.errors import R3MemError
from r3mem.store.shell.output import note

if TYPE_CHECKING:
    from typing_extensions import Self

    from r3mem.store import MemoryStore, Stats

#: Seconds between lines where there is no terminal, and before the first one.
LINE_SECONDS = 10.0
LOOK_SECONDS = 0.5


class Progress:
    """Tells how far something is, from a thread of its own while it is used as a context.

    Args:
        what: What is done, such as ``reading``.
        total: How much there is to do; None if nobody knows.
        unit: What is counted.
        done: Asked now and then how much is done; None where :meth:`advance` says it.
    """

    def __init__(
        self, what: str, total: int | None = None, unit: str = "", done: Callable[[], int] | None = None
    ) -> None:
        self.what, self.total, self.unit, self._ask = what, total, unit, done
        self._done, self._began = 0, time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="r3mem-progress", daemon=True)
        self._bar: Any = None
        self._task: Any = None

    def advance(self, more: int) -> None:
        """So much more is done.

        Args:
            more: In the unit.
        """
        self._done += more

    def line(self) -> str:
        """How far it is, in a line."""
        seconds = f"{time.monotonic() - self._began:.0f} s"
        if self.total is None:
            return f"{self.what}, {seconds}"
        share = 100 * self._done // max(1, self.total)
        return f"{self.what}: {self._done:,} of {self.total:,} {self.unit} ({share}%), {seconds}"

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            columns = (progress.SpinnerColumn(), progress.TextColumn("{task.description}"))
            measured = (progress.BarColumn(), progress.TaskProgressColumn(), progress.TimeRemainingColumn())
            more = (progress.TimeElapsedColumn(),) if self.total is None else measured
            self._bar = progress.Progress(*columns, *more, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.what, total=self.total)
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.stop()

    def _watch(self) -> None:
        told = time.monotonic()
        while not self._over.wait(LOOK_SECONDS):
            if self._ask is not None:
                # What is asked may be held by another process for a moment.
                with suppress(R3MemError):
                    self._done = self._ask()
            if self._bar is not None:
                self._bar.update(self._task, completed=self._done)
            elif time.monotonic() - told >= LINE_SECONDS:
                told = time.monotonic()
                note(self.line())


def compress(store: MemoryStore) -> Stats:
    """Compress all that is pending in a store, whoever added it.

    Args:
        store: Opened with ``compress="later"``.

    Raises:
        InputError: There is no such model.
        StoreError: The database cannot be written.
    """
    before = store.stats().pending
    if not before:
        return store.stats()
    with Progress("compressing", before, "texts", lambda: before - store.stats().pending):
        return store.wait()
