"""The verbs that give something back: get, list, search, recall, memory, history."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from r3mem.errors import InputError, NotFound
from r3mem.errors.whole_numbers import whole_number
from r3mem.store.entries import Entry, Hit, Page, Turn, Version
from r3mem.store.given import given_source, utf8
from r3mem.store.indexing.base import Indexing
from r3mem.store.opened import Opened
from r3mem.store.policies import check_policy
from r3mem.store.rows import entry_of, entry_rows, found_entries, found_entry, found_versions, given_ids, within
from r3mem.store.schema import entries
from r3mem.store.scope import Scope
from r3mem.store.store_shelf import StoreShelf
from r3mem.store.texts import memory_of, text_of_entry

if TYPE_CHECKING:
    from r3mem.memory import Memory


#: Entries of a page, or hits of a search, at most.
LONGEST_PAGE = 10_000
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
        scope, parts = Scope.of(user, agent, session), self._parts_open()
        with parts.database.reading() as connection:
            return found_entry(connection, id, scope)

    def list(
        self, *, user: str, agent: str | None = None, session: str | None = None, after: str | None = None,
        limit: int = 100, source: str | None = None,
    ) -> Page:  # fmt: skip
        """Entries in the order in which they were added, page by page.

        Args:
            user: Whose.
            agent: Only this agent's.
            session: Only of this session.
            after: ``next`` of the page before; None for the first. Behind the last page there is an empty one.
            limit: Entries of a page.
            source: Only what is from there, as it was given; compared exactly.

        Raises:
            InputError: ``after`` is no ``next`` of a page, ``limit`` is not from 1 to 10,000, or ``source`` is not
                possible.
        """
        scope, parts = Scope.of(user, agent, session), self._parts_open()
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LONGEST_PAGE:
            raise InputError(f"limit {limit!r:.20}: a page has 1 to {LONGEST_PAGE:,} entries")
        there = within(scope)
        if source is not None:
            there &= entries.c.source == given_source(source)
        asked = entry_rows().where(there).order_by(entries.c.created, entries.c.id).limit(limit + 1)
        if after is not None:
            created, id = _cursor(after)
            behind = (entries.c.created > created) | ((entries.c.created == created) & (entries.c.id > id))
            asked = asked.where(behind)
        with parts.database.reading() as connection:
            rows = connection.execute(asked).all()
            total = connection.execute(select(func.count()).select_from(entries).where(there)).scalar_one()
        shown = rows[:limit]
        more = f"{shown[-1].created}-{shown[-1].id}" if len(rows) > limit else None
        return Page([entry_of(row) for row in shown], more, total)

    def search(
        self, query: str, *, user: str, agent: str | None = None, session: str | None = None, k: int = 10,
        by: Indexing | None = None,
    ) -> Hits:  # fmt: skip
        """Entries that fit a query, best first.

        Args:
            query: Words, or a question. No character in it is a command. Full-text search takes its first 64 different
                words.
            user: Whose.
            agent: Only this agent's.
            session: Only of this session.
            k: Hits at most.
            by: What finds and ranks; None for the store's own.

        Raises:
            InputError: The query is empty, or ``k`` is less than 1.
        """
        scope, parts = Scope.of(user, agent, session), self._parts_open()
        if not isinstance(query, str) or not query.strip():
            raise InputError("the query is empty, or no string: give at least one word")
        utf8(query, "the query")
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= LONGEST_PAGE:
            raise InputError(f"k {k!r:.20}: give 1 to {LONGEST_PAGE:,}")
        if by is not None:
            check_policy(by, Indexing, "indexing")
        ranked = (by or self.policies.indexing).rank(query, StoreShelf(self, scope), k)[:k]
        with parts.database.reading() as connection:
            found = found_entries(connection, [id for id, _ in ranked])
        # What was deleted meanwhile is left out.
        hits = [(found[id], score) for id, score in ranked if id in found and found[id].user == user]
        return [
            Hit(entry, score, rank, functools.partial(text_of_entry, parts, entry.id, scope, entry.version))
            for rank, (entry, score) in enumerate(hits, 1)
        ]

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
        scope, parts = Scope.of(user, agent, session), self._parts_open()
        if sum(given is not None for given in (turn, node)) > 1 or (turn is not None and version is not None):
            raise InputError("give one of turn and node; a turn is of the current version")
        if node is not None:
            id = self._part(id, whole_number(node, "node"), scope)
            scope = Scope(user)
        turns = tuple[Turn, ...]()
        if turn is not None:
            # Text and turns of one version, though another is written meanwhile.
            entry = self.get(id, user=user, agent=agent, session=session)
            turns, version = entry.turns, entry.version
        text = text_of_entry(parts, id, scope, version)
        if turn is not None:
            if not 0 <= whole_number(turn, "turn") < len(turns):
                raise InputError(f"entry {id} has no turn {turn}: it has {len(turns)}, counted from 0")
            text = text[turns[turn].start : turns[turn].end]
        first = 0 if start is None else whole_number(start, "start")
        last = len(text) if end is None else whole_number(end, "end")
        if not 0 <= first <= last <= len(text):
            raise InputError(f"characters {first} to {last} are not there: the text has {len(text)}")
        return text[first:last]

    def memory(
        self, id: str | Sequence[str], *, user: str, agent: str | None = None, session: str | None = None
    ) -> Memory:
        """What a model reads instead of the text: virtual tokens. What is still pending is compressed first.

        Args:
            id: The entry, or several: one memory of all of them, in this order.
            user: Whose they are.
            agent: As of :meth:`get`.
            session: As of :meth:`get`.

        Raises:
            NotFound: The user has no such entry.
            InputError: One could not be compressed.
            RecallError: It is damaged.
        """
        scope, parts = Scope.of(user, agent, session), self._parts_open()
        ids = given_ids(id)
        if not ids:
            raise InputError("no entry is given: give one id at least")
        with parts.database.reading() as connection:
            found = [found_entry(connection, each, scope) for each in ids]
        memories = [memory_of(self, entry) for entry in found]
        return memories[0] if len(memories) == 1 else type(memories[0]).join(memories)

    def history(self, id: str, *, user: str, agent: str | None = None, session: str | None = None) -> Versions:
        """Every version of an entry, oldest first; ``recall(id, version=number)`` gives the text of each.

        Args:
            id: The entry.
            user: Whose it is.
            agent: As of :meth:`get`.
            session: As of :meth:`get`.

        Raises:
            NotFound: The user has no such entry.
        """
        scope, parts = Scope.of(user, agent, session), self._parts_open()
        with parts.database.reading() as connection:
            found_entry(connection, id, scope)
            return found_versions(connection, id)

    def _part(self, id: str, number: int, scope: Scope) -> str:
        """The entry that is a part of a consolidated one."""
        with self._parts_open().database.reading() as connection:
            entry = found_entry(connection, id, scope)
            parts = select(entries.c.id).where(entries.c.part_of == entry.id, entries.c.part_number == number)
            found: str | None = connection.execute(parts).scalar() if 0 <= number < 2**31 else None
        if found is None:
            raise NotFound(f"entry {id} has no part {number}: only consolidated entries have parts, counted from 0")
        return found


def _cursor(after: object) -> tuple[int, str]:
    """Where a page begins.

    Raises:
        InputError: It is not what a page gave.
    """
    found = re.fullmatch(r"(\d{1,18})-([0-9a-f]{32})", after) if isinstance(after, str) else None
    if found is None:
        raise InputError(f"after {after!r:.60} is not `next` of a page: give that, or None for the first page")
    return int(found[1]), found[2]
