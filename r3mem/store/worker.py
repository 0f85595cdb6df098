"""The thread that compresses in the background, as long as the store is open."""

from __future__ import annotations

import logging
import threading

from r3mem.errors import R3MemError
from r3mem.store.compression import Compressor
from r3mem.store.parts import Parts

logger = logging.getLogger(__name__)
#: Seconds after which it looks for what other processes have added, or left.
LOOK_SECONDS = 2.0
#: Seconds after which it tries again what the database refused.
REST_SECONDS = 5.0


class Worker:
    """Compresses what is pending, in a thread that begins with the first call of :meth:`wake`.

    Attributes:
        trouble: Why nothing is compressed at present; None if all is well.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, self._compressor = parts, Compressor(parts)
        self._guard, self._bell, self._end = threading.Lock(), threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.trouble: R3MemError | None = None

    def wake(self) -> None:
        """There is something to do."""
        with self._guard:
            if self._thread is None and not self._end.is_set():
                self._thread = threading.Thread(target=self._run, name="r3mem-compression", daemon=True)
                self._thread.start()
        self._bell.set()

    def close(self) -> None:
        """End after the texts that it is at; a model that is being loaded is not waited for."""
        self._end.set()
        self._bell.set()
        with self._guard:
            thread = self._thread
        while thread is not None and thread.is_alive():
            thread.join(0.05)
            if not self._parts.model.is_loaded:
                return

    def _run(self) -> None:
        while not self._end.is_set():
            self._bell.clear()
            try:
                # The model first: texts are not leased for the seconds that it takes.
                if self._compressor.pending():
                    self._parts.model.get()
                    if self._end.is_set():
                        return
                    took = self._compressor.some()
                    self.trouble = None
                    if took:
                        continue
                else:
                    self.trouble = None
                self._bell.wait(LOOK_SECONDS)
            except R3MemError as error:
                self._rest(error)
            except Exception as error:
                self._rest(R3MemError(f"compression stopped ({type(error).__name__}: {error})"))

    def _rest(self, error: R3MemError) -> None:
        if self._end.is_set():
            return
        if str(self.trouble) != str(error):
            logger.warning("nothing is compressed at present, raw texts are kept: %s", error)
        self.trouble = error
        self._end.wait(REST_SECONDS)
