"""The verbs that give something back: get, list, search, recall, memory, history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from r3mem.store.entries import Entry, Hit, Page, Version
from r3mem.store.indexing.base import Indexing
from r3mem.store.opened import Opened

if TYPE_CHECKING:
    from r3mem.memory import Memory


# The verb `list` hides the type inside the class.
Hits = list[Hit]
Versions = list[Version]


class Reading(Opened):
    """See :class:`r3mem.store.MemoryStore`."""

    def get(self, id: str, *, user: str, agent: str | None = None, session: str | None = None) -> Entry:
        """One entry.

        Raises:
            NotFound: The user has none of this id: it is unknown, deleted or another user's.
        """
        raise NotImplementedError

    def list(
        self, *, user: str, agent: str | None = None, session: str | None = None, after: str | None = None,
        limit: int = 100,
    ) -> Page:  # fmt: skip
        """Entries in the order in which they were added, page by page.

        Args:
            user: Whose.
            agent: Only this agent's.
            session: Only of this session.
            after: ``next`` of the page before; None for the first. Behind the last page there is an empty one.
            limit: Entries of a page.

        Raises:
            InputError: ``after`` is no ``next`` of a page, or ``limit`` is not from 1 to 10,000.
        """
        raise NotImplementedError

    def search(
        self, query: str, *, user: str, agent: str | None = None, session: str | None = None, k: int = 10,
        by: Indexing | None = None,
    ) -> Hits:  # fmt: skip
        """Entries that fit a query, best first.

        Args:
            query: Words, or a question. No character in it is a command.
            user: Whose.
            agent: Only this agent's.
            session: Only of this session.
            k: Hits at most.
            by: What finds and ranks; None for the store's own.

        Raises:
            InputError: The query is empty, or ``k`` is less than 1.
        """
        raise NotImplementedError

    def recall(
        self, id: str, *, user: str, agent: str | None = None, session: str | None = None, start: int | None = None,
        end: int | None = None, turn: int | None = None, node: int | None = None, version: int | None = None,
    ) -> str:  # fmt: skip
        """The exact text of an entry, or of a part of it.

        Args:
            id: The entry.
            user: Whose it is.
            agent: As of :meth:`get`.
            session: As of :meth:`get`.
            start: First character.
            end: One past the last character.
            turn: Number of a message of a conversation, from 0: its content.
            node: Of a consolidated entry the number of the part, from 0.
            version: An earlier version; None for the current one.

        Raises:
            NotFound: The user has no such entry.
            InputError: It has no such part or version.
            RecallError: It is damaged, and no text is given back.
            FingerprintError: It was made by another model.
        """
        raise NotImplementedError

    def memory(self, id: str | Sequence[str], *, user: str) -> Memory:
        """What a model reads instead of the text: virtual tokens. What is still pending is compressed first.

        Args:
            id: The entry, or several: one memory of all of them, in this order.
            user: Whose they are.

        Raises:
            NotFound: The user has no such entry.
            InputError: One could not be compressed.
            RecallError: It is damaged.
        """
        raise NotImplementedError

    def history(self, id: str, *, user: str) -> Versions:
        """Every version of an entry, oldest first; ``recall(id, version=number)`` gives the text of each.

        Raises:
            NotFound: The user has no such entry.
        """
        raise NotImplementedError
