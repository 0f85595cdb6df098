"""The verbs about the store as a whole: stats, check, wait, export, import, reembed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING

from r3mem.errors import InputError, StoreError
from r3mem.errors.given_paths import given_path
from r3mem.store.checking import problems
from r3mem.store.counting import stats_of
from r3mem.store.deleting import unerased
from r3mem.store.export import export_entries
from r3mem.store.import_entries import import_entries
from r3mem.store.models import ModelOnNeed
from r3mem.store.opened import Opened
from r3mem.store.reembedding import raw_again
from r3mem.store.reindexing import reindex
from r3mem.store.reports import Problem, Stats
from r3mem.store.scope import Scope
from r3mem.store.store_shelf import StoreShelf

if TYPE_CHECKING:
    from r3mem.model import R3Mem


LOOK_SECONDS = 0.05


class Keeping(Opened):
    """See :class:`r3mem.store.MemoryStore`."""

    def stats(self, *, user: str | None = None) -> Stats:
        """How much is kept, waits and failed.

        Args:
            user: Only this user's; None for the whole store.
        """
        if user is not None:
            Scope.of(user)
        told = stats_of(self._parts_open(), user)
        trouble = self._worker.trouble if self._worker is not None else None
        return told if trouble is None else replace(told, trouble=str(trouble))

    def unerased(self) -> str | None:
        """Why bytes of what was deleted are still in the files, and what to do; None if none are. As of `stats`."""
        parts = self._parts_open()
        with parts.database.reading() as connection:
            return unerased(parts, connection)

    def wait(self, timeout: float | None = None, progress: Callable[[int], object] | None = None) -> Stats:
        """Wait until nothing is pending; without a worker in the background, compress here.

        Args:
            timeout: Seconds at most; None for as long as it takes.
            progress: Is called with the number of texts that are pending: at first, and whenever it is another.

        Raises:
            InputError: ``timeout`` is no number of seconds, or ``progress`` cannot be called.
            StoreError: Something is still pending then, or the model cannot be loaded.
        """
        if timeout is not None and (
            isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0
        ):
            raise InputError(f"timeout {timeout!r:.40}: give seconds, or None for as long as it takes")
        if progress is not None and not callable(progress):
            raise InputError(f"progress is a function that takes a number of texts, not {type(progress).__name__}")
        until = None if timeout is None else time.monotonic() + timeout
        self._parts_open()
        told: int | None = None
        while True:
            pending = self._compressor.pending()
            if progress is not None and pending != told:
                told = pending
                progress(pending)
            if not pending:
                return self.stats()
            if self._worker is None:
                took = self._compressor.some()
            else:
                self._worker.wake()
                took = 0
                if self._worker.trouble is not None:
                    raise StoreError(f"texts are kept, and cannot be compressed: {self._worker.trouble}")
            if until is not None and time.monotonic() > until:
                raise StoreError(f"{self._compressor.pending()} texts are still pending after {timeout} s: wait again")
            if not took:
                time.sleep(LOOK_SECONDS)

    def check(self, recall: bool = False) -> list[Problem]:
        """Read every memory, and say which are damaged or gone. Nothing is changed; what is whole is served as ever.

        The full-text index is compared with the words that are kept beside texts.

        Args:
            recall: Whether texts are recalled too, by the model, and compared with their digests. Memories that
                another model made are named then.
        """
        return problems(self._parts_open(), recall)

    def reindex(self, recall: bool = False) -> int:
        """Make the full-text index anew: searches find again what damage had hidden. Nobody writes meanwhile.

        Args:
            recall: Whether words are taken from recalled texts too, by the model. Without it they are taken from texts
                that are kept raw, and of the others from the words that are kept beside them.

        Returns:
            Of how many texts.
        """
        return reindex(self._parts_open(), recall)

    def export(self, path: str | PathLike[str], *, user: str) -> int:
        """Write all of a user's entries, with their texts and virtual tokens, to one zip file.

        ``entries.jsonl`` has a line for each version with its text; ``memories/`` has safetensors files.

        Args:
            path: The file; it appears whole or not at all.
            user: Whose.

        Returns:
            How many entries.
        """
        scope = Scope.of(user)
        return export_entries(StoreShelf(self, scope), self._parts_open(), given_path(path, "the export"))

    def import_(self, path: str | PathLike[str], *, user: str) -> int:
        """Take in what :meth:`export` wrote; what was taken in before is not doubled.

        Args:
            path: The file.
            user: Whose entries they become.

        Returns:
            How many entries are new.

        Raises:
            InputError: No such file, or not one that :meth:`export` wrote; nothing is taken in.
        """
        scope, parts = Scope.of(user), self._parts_open()
        count = import_entries(parts, scope, given_path(path, "the export"))
        self._compress_added()
        return count

    def reembed(
        self, *, user: str, agent: str | None = None, session: str | None = None, old: R3Mem | str | None = None
    ) -> int:
        """Make memories of another model anew: recalled by the old model, retained by this store's.

        Args:
            user: Whose.
            agent: Only this agent's.
            session: Only of this session.
            old: The model that made them, or its name; not needed where raw texts are kept.

        Returns:
            How many texts are compressed anew; they are pending until then.

        Raises:
            FingerprintError: ``old`` did not make them either.
        """
        scope, parts = Scope.of(user, agent, session), self._parts_open()
        count = raw_again(parts, scope, ModelOnNeed(old) if old is not None else None)
        self._compress_added()
        return count
