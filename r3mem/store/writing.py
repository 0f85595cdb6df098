"""The verbs that change what is kept: add, update, consolidate, forget, delete."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy import update as change

from r3mem.errors import ConfigError, InputError, NotFound
from r3mem.errors.given_paths import given_path
from r3mem.store.adding import About, put_content, put_entries, put_entry, put_version
from r3mem.store.consolidation.base import Consolidation
from r3mem.store.database import in_groups
from r3mem.store.deleting import delete_entries
from r3mem.store.entries import Entry
from r3mem.store.forgetting.base import Forgetting
from r3mem.store.given import Given, Time, Turns, given_metadata, given_source, given_time
from r3mem.store.opened import Opened
from r3mem.store.pieces import check_characters, cut, text_pieces
from r3mem.store.policies import check_policy
from r3mem.store.reports import Consolidated
from r3mem.store.rows import found_entries, found_entry, given_ids, within
from r3mem.store.schema import entries
from r3mem.store.scope import Scope
from r3mem.store.store_shelf import StoreShelf

#: Entries that are written together where a long text comes in pieces.
TOGETHER = 200


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
        scope, given = Scope.of(user, agent, session), Given.of(text)
        about = About(given_source(source), 0, given_time(time), given_metadata(metadata))
        parts = self._parts_open()
        with parts.database.writing(user) as connection:
            id = put_entry(parts, connection, scope, given, about)
            entry = found_entry(connection, id, scope)
            self.policies.updating.added(parts, connection, scope, entry, given)
            content = _contents(connection, [id])
        self._compress_added(content)
        return self._as_it_is(entry) if self.compress == "now" else entry

    def add_pieces(
        self, pieces: Iterable[str], *, user: str, agent: str | None = None, session: str | None = None,
        source: str | None = None, time: Time = None, metadata: Mapping[str, Any] | None = None,
        characters: int = 4_000,
    ) -> list[Entry]:  # fmt: skip
        """Keep a long text that comes in pieces, as entries of bounded size; all of them or none.

        The policy of updating is asked as by :meth:`add`; pieces of one text do not supersede each other.

        Args:
            pieces: The text in order, in pieces of any size; never held as a whole.
            user: As of :meth:`add`, and so the others.
            characters: Characters of an entry at most. It ends at a paragraph, a line or a blank where there is one.

        Raises:
            InputError: Nothing in it, or no text.
            StoreError: The database cannot be written.
        """
        scope, size = Scope.of(user, agent, session), check_characters(characters)
        told, when, more = given_source(source), given_time(time), given_metadata(metadata)
        parts = self._parts_open()
        made, at, found = list[str](), 0, dict[str, Entry]()
        with parts.database.writing(user) as connection:
            texts = cut(pieces, size)
            while some := list(itertools.islice(texts, TOGETHER)):
                starts = itertools.accumulate(map(len, some), initial=at)
                given = [(Given.of(piece, "file"), About(told, start, when, more))
                         for piece, start in zip(some, starts, strict=False)]  # fmt: skip
                ids = put_entries(parts, connection, scope, given)
                made += ids
                at += sum(map(len, some))
                new = found_entries(connection, ids)
                found |= new
                together = [(new[id], each) for id, (each, _) in zip(ids, given, strict=True)]
                self.policies.updating.added_together(parts, connection, scope, together, found)
            if not made:
                raise InputError(f"{told or 'the text'} is empty: there is nothing to keep")
            content = _contents(connection, made)
        self._compress_added(content)
        return [self._as_it_is(found[id]) if self.compress == "now" else found[id] for id in made]

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
        Scope.of(user, agent, session)
        file = given_path(path, "the file")
        return self.add_pieces(
            text_pieces(file), user=user, agent=agent, session=session, source=str(path) if source is None else source,
            time=time, metadata=metadata, characters=characters,
        )  # fmt: skip

    def update(
        self, id: str, text: str | Turns, *, user: str, agent: str | None = None, session: str | None = None,
        time: Time = None,
    ) -> Entry:  # fmt: skip
        """Give an entry another text: a new version, found from now on. The one before stays in the history.

        Args:
            id: The entry.
            text: As of :meth:`add`.
            user: Whose it is.
            agent: Only an entry of this agent.
            session: Only one of this session.
            time: As of :meth:`add`.

        Raises:
            NotFound: The user has no such entry.
            InputError: As of :meth:`add`.
        """
        scope, given, when = Scope.of(user, agent, session), Given.of(text), given_time(time)
        parts = self._parts_open()
        with parts.database.writing(user) as connection:
            entry = found_entry(connection, id, scope)
            if entry.level == "consolidated":
                raise InputError(f"entry {id} is part of a coarser memory: add the new text, and delete the entry")
            kind = entry.kind if given.kind == "text" and entry.kind == "file" else given.kind
            given = replace(given, kind=kind)
            content = put_content(parts, connection, user, given)
            put_version(parts, connection, id, entry.version + 1, content, given, "updated", when)
            # What had superseded the entry has not superseded its new text.
            changed = {"end_at": entry.start + len(given.text), "superseded_by": None}
            changed |= {} if when is None else {"time": when}
            connection.execute(change(entries).where(entries.c.id == id).values(**changed))
            entry = found_entry(connection, id, scope)
        self._compress_added([content])
        return self._as_it_is(entry) if self.compress == "now" else entry

    def delete(
        self, id: str | Sequence[str], *, user: str, agent: str | None = None, session: str | None = None
    ) -> int:
        """Erase entries: every version, its text, virtual tokens and words, and the bytes they had in the files.

        Args:
            id: The entry, or several; all of them or none.
            user: Whose they are.
            agent: Only entries of this agent.
            session: Only those of this session.

        Returns:
            How many were erased.

        Raises:
            NotFound: The user has no such entry; nothing is erased.
        """
        scope, parts = Scope.of(user, agent, session), self._parts_open()
        ids = given_ids(id)
        with parts.database.reading() as connection:
            for each in ids:
                found_entry(connection, each, scope)
        count = delete_entries(parts, user, list(dict.fromkeys(ids)))
        if ids and not count:
            raise NotFound(f"entry {ids[0]!r:.60} is not there: list gives the ids of the user's entries")
        self._compress_added()
        return count

    def delete_all(self, *, user: str, agent: str | None = None, session: str | None = None) -> int:
        """Erase all entries of a user, or those of an agent or a session.

        Returns:
            How many were erased; 0 if there were none.
        """
        scope, parts = Scope.of(user, agent, session), self._parts_open()
        with parts.database.reading() as connection:
            ids = list(connection.execute(select(entries.c.id).where(within(scope))).scalars())
        count = delete_entries(parts, user, ids)
        self._compress_added()
        return count

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
        scope = Scope.of(user, agent, session)
        self._parts_open()
        if policy is not None:
            check_policy(policy, Consolidation, "consolidation")
        done = (policy or self.policies.consolidation).run(StoreShelf(self, scope))
        self._compress_added()
        return done

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
        scope = Scope.of(user, agent, session)
        self._parts_open()
        chosen = self.policies.forgetting if policy is None else policy
        policies = list(chosen) if isinstance(chosen, Sequence) else [chosen]
        for each in policies:
            check_policy(each, Forgetting, "forgetting")
        if not policies:
            raise ConfigError("what is to be forgotten? Give a policy, such as ByAge(days=365), here or when opening")
        count = sum(each.run(StoreShelf(self, scope)) for each in policies)
        self._compress_added()
        return count

    def _as_it_is(self, entry: Entry) -> Entry:
        with self._parts_open().database.reading() as connection:
            return found_entry(connection, entry.id, Scope(entry.user))


def _contents(connection: Connection, ids: Sequence[str]) -> list[int]:
    """Numbers of the current contents of entries."""
    found = list[int]()
    for group in in_groups(ids):
        found += connection.execute(select(entries.c.content).where(entries.c.id.in_(group))).scalars()
    return found
