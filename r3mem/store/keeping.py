"""The verbs about the store as a whole: stats, check, wait, export, import, reembed."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from r3mem.store.opened import Opened
from r3mem.store.reports import Problem, Stats

if TYPE_CHECKING:
    from r3mem.model import R3Mem


class Keeping(Opened):
    """See :class:`r3mem.store.MemoryStore`."""

    def stats(self, *, user: str | None = None) -> Stats:
        """How much is kept, waits and failed.

        Args:
            user: Only this user's; None for the whole store.
        """
        raise NotImplementedError

    def wait(self, timeout: float | None = None) -> Stats:
        """Wait until nothing is pending; without a worker in the background, compress here.

        Args:
            timeout: Seconds at most; None for as long as it takes.

        Raises:
            StoreError: Something is still pending then, or the model cannot be loaded.
        """
        raise NotImplementedError

    def check(self) -> list[Problem]:
        """Read every memory, and say which are damaged or of another model. Nothing is changed.

        Texts are recalled by the model where it made them, and their digests compared.
        """
        raise NotImplementedError

    def export(self, path: str | PathLike[str], *, user: str) -> int:
        """Write all of a user's entries, with their texts and virtual tokens, to one zip file.

        ``entries.jsonl`` has a line for each version with its text; ``memories/`` has safetensors files.

        Args:
            path: The file; it appears whole or not at all.
            user: Whose.

        Returns:
            How many entries.
        """
        raise NotImplementedError

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
        raise NotImplementedError

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
        raise NotImplementedError
