"""The verbs that change what is kept: add, update, consolidate, forget, delete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from os import PathLike
from typing import Any

from r3mem.store.consolidation.base import Consolidation
from r3mem.store.entries import Entry
from r3mem.store.forgetting.base import Forgetting
from r3mem.store.opened import Opened
from r3mem.store.reports import Consolidated

#: A conversation: messages ``{"role": ..., "content": ...}`` in order.
Turns = Sequence[Mapping[str, Any]]
#: When something was said: with a time zone, or as a string of ISO 8601 with one.
Time = datetime | str | None


class Writing(Opened):
    """See :class:`r3mem.store.MemoryStore`."""

    def add(
        self, text: str | Turns, *, user: str, agent: str | None = None, session: str | None = None,
        source: str | None = None, time: Time = None, metadata: Mapping[str, Any] | None = None,
    ) -> Entry:  # fmt: skip
        """Keep a text or a conversation. When this returns, it is on the disk; compression follows.

        Args:
            text: A string, or the messages of a conversation.
            user: Whose it is.
            agent: Which agent adds it.
            session: In which session.
            source: Where it is from.
            time: When it was said or written; None for now.
            metadata: Anything that JSON can hold.

        Raises:
            InputError: Nothing in it, or not as described; the message says what.
            StoreError: The database cannot be written.
        """
        raise NotImplementedError

    def add_pieces(
        self, pieces: Iterable[str], *, user: str, agent: str | None = None, session: str | None = None,
        source: str | None = None, time: Time = None, metadata: Mapping[str, Any] | None = None,
        characters: int = 4_000,
    ) -> list[Entry]:  # fmt: skip
        """Keep a long text that comes in pieces, as entries of bounded size; all of them or none.

        Args:
            pieces: The text in order, in pieces of any size; never held as a whole.
            user: As of :meth:`add`, and so the others.
            characters: Characters of an entry at most. It ends at a paragraph, a line or a blank where there is one.

        Raises:
            InputError: Nothing in it, or no text.
            StoreError: The database cannot be written.
        """
        raise NotImplementedError

    def add_file(
        self, path: str | PathLike[str], *, user: str, agent: str | None = None, session: str | None = None,
        source: str | None = None, time: Time = None, metadata: Mapping[str, Any] | None = None,
        characters: int = 4_000,
    ) -> list[Entry]:  # fmt: skip
        """Keep a text file in UTF-8, character for character, as entries of bounded size; all of them or none.

        Args:
            path: The file; its path is the source where none is given.
            user: As of :meth:`add_pieces`, and so the others.

        Raises:
            InputError: It cannot be read, is empty or no text in UTF-8.
            StoreError: The database cannot be written.
        """
        raise NotImplementedError

    def update(self, id: str, text: str | Turns, *, user: str, time: Time = None) -> Entry:
        """Give an entry another text: a new version, found from now on. The one before stays in the history.

        Args:
            id: The entry.
            text: As of :meth:`add`.
            user: Whose it is.
            time: As of :meth:`add`.

        Raises:
            NotFound: The user has no such entry.
            InputError: As of :meth:`add`.
        """
        raise NotImplementedError

    def delete(self, id: str | Sequence[str], *, user: str) -> int:
        """Erase entries: every version, its text, virtual tokens and words, and the bytes they had in the files.

        Args:
            id: The entry, or several; all of them or none.
            user: Whose they are.

        Returns:
            How many were erased.

        Raises:
            NotFound: The user has no such entry; nothing is erased.
        """
        raise NotImplementedError

    def delete_all(self, *, user: str, agent: str | None = None, session: str | None = None) -> int:
        """Erase all entries of a user, or those of an agent or a session.

        Returns:
            How many were erased; 0 if there were none.
        """
        raise NotImplementedError

    def consolidate(
        self, *, user: str, agent: str | None = None, session: str | None = None, policy: Consolidation | None = None
    ) -> Consolidated:
        """Merge old entries into coarser memories. Their texts can be recalled as before.

        Args:
            user: Whose.
            agent: Only this agent's.
            session: Only of this session.
            policy: None for the store's own.
        """
        raise NotImplementedError

    def forget(
        self, *, user: str, agent: str | None = None, session: str | None = None,
        policy: Forgetting | Sequence[Forgetting] | None = None,
    ) -> int:  # fmt: skip
        """Erase what the policies say.

        Args:
            user: Whose.
            agent: Only this agent's.
            session: Only of this session.
            policy: One or several; None for the store's own.

        Returns:
            How many entries were erased or merged away.

        Raises:
            ConfigError: No policy is given, and the store has none.
        """
        raise NotImplementedError
