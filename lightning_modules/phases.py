"""What a command is doing, one line a phase, and a sign of life where a phase takes long. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

#: Longest silence, in seconds.
SILENCE = 14.0
# Set by the launchers of processes after the first, see Lightning's `rank_zero_only`.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class Phases:
    """Tells the phases of a run on one stream, and again what is going on after every `SILENCE` seconds of silence.

    Args:
        silence: Longest silence, in seconds.
        stream: Where to; None is standard error at the time of each line.
    """

    def __init__(self, silence: float = SILENCE, stream: TextIO | None = None) -> None:
        self.silence, self._stream = silence, stream
        self._now: Callable[[], str] | None = None
        self._since = self._told = time.monotonic()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def begin(self) -> None:
        """Watch for silence, until `end`."""
        if self._thread is None or not self._thread.is_alive():
            self._ended.clear()
            self._thread = threading.Thread(target=self._watch, name="r3mem phases", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Fall silent."""
        self._ended.set()
        self._now, self._thread = None, None

    def tell(self, phase: str) -> None:
        """Begin a phase and say so; outside of a command nothing is said.

        Args:
            phase: What is done in it, such as ``loading the backbone``.
        """
        if self._thread is None:
            return
        self._since = time.monotonic()
        self._now = lambda: f"still {phase}, {clock(time.monotonic() - self._since)}"
        self.write(phase)

    def going_on(self, now: Callable[[], str] | None) -> None:
        """Leave the lines of a phase to somebody else, and say only what is going on where there are none.

        Args:
            now: Says it in a line; None for nothing at all, as where a bar is drawn.
        """
        self._now = now

    def write(self, line: str) -> None:
        """One line, from the first process only.

        Args:
            line: Without its end.
        """
        self._told = time.monotonic()
        if any(os.environ.get(name, "0") != "0" for name in RANKS):
            return
        # A terminal that is gone, or a closed file, ends no run.
        with suppress(OSError, ValueError):
            print(line, file=self._stream or sys.stderr, flush=True)

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self.silence / 4)):
            now = self._now
            line = now() if now is not None and time.monotonic() - self._told >= self.silence else ""
            if line:
                self.write(line)


def clock(seconds: float) -> str:
    """A length of time as ``1:02:03``, or ``2:03`` below an hour.

    Args:
        seconds: The time; what is not finite gives ``?``.
    """
    if not 0 <= seconds < float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


#: Of this process.
PHASES = Phases()


def begin(phase: str) -> None:
    """Begin to tell the phases of this process.

    Args:
        phase: The first one.
    """
    PHASES.begin()
    PHASES.tell(phase)
