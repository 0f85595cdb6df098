"""The entries of one scope of an open store, as policies see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from r3mem.store.deleting import delete_entries
from r3mem.store.entries import Entry
from r3mem.store.given import moment
from r3mem.store.merging import merge
from r3mem.store.opened import Opened
from r3mem.store.rows import entry_of, entry_rows, found_entry, within
from r3mem.store.schema import entries
from r3mem.store.scope import Scope
from r3mem.store.texts import memory_of, text_of_entry
from r3mem.store.words import words_of

if TYPE_CHECKING:
    from r3mem.memory import Memory
    from r3mem.model import R3Mem

PAGE = 500


class StoreShelf:
    """See :class:`r3mem.store.shelf.Shelf`.

    Args:
        store: An open store.
        scope: The scope.
    """

    def __init__(self, store: Opened, scope: Scope) -> None:
        self._store, self.scope = store, scope
        self._parts = store._parts_open()

    def now(self) -> datetime:
        """See `Shelf`."""
        return moment(self._parts.clock.now())

    def entries(self) -> Iterator[Entry]:
        """See `Shelf`."""
        created, id = -1, ""
        while True:
            behind = (entries.c.created > created) | ((entries.c.created == created) & (entries.c.id > id))
            asked = entry_rows().where(within(self.scope), behind).order_by(entries.c.created, entries.c.id).limit(PAGE)
            with self._parts.database.reading() as connection:
                rows = connection.execute(asked).all()
            for row in rows:
                yield entry_of(row)
            if len(rows) < PAGE:
                return
            created, id = rows[-1].created, rows[-1].id

    def newest(self, k: int) -> list[str]:
        """See `Shelf`."""
        found = entries.c.superseded_by.is_(None) & entries.c.part_of.is_(None)
        asked = select(entries.c.id).where(within(self.scope), found).order_by(entries.c.created.desc()).limit(k)
        with self._parts.database.reading() as connection:
            return list(connection.execute(asked).scalars())

    def by_words(self, query: str, k: int) -> list[tuple[str, float]]:
        """See `Shelf`."""
        words = words_of(query)
        if not words:
            return []
        scope = self.scope
        with self._parts.database.reading() as connection:
            return self._parts.database.words.search(connection, words, scope.user, scope.agent, scope.session, k)

    def text(self, id: str) -> str:
        """See `Shelf`."""
        return text_of_entry(self._parts, id, self.scope)

    def memory(self, id: str) -> Memory:
        """See `Shelf`."""
        with self._parts.database.reading() as connection:
            entry = found_entry(connection, id, self.scope)
        return memory_of(self._store, entry)

    def model(self) -> R3Mem:
        """See `Shelf`."""
        return self._store.model()

    def delete(self, ids: Sequence[str]) -> int:
        """See `Shelf`."""
        return delete_entries(self._parts, self.scope.user, ids)

    def merge(self, ids: Sequence[str], ratio: int) -> str:
        """See `Shelf`."""
        return merge(self._parts, self.scope, ids, ratio)
