"""The seam: what a new entry does to older ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from sqlalchemy import Connection

from r3mem.store.entries import Entry
from r3mem.store.given import Given
from r3mem.store.parts import Parts
from r3mem.store.scope import Scope


class Updating(ABC):
    """Is asked at every addition, in its transaction: no model may be needed."""

    @abstractmethod
    def added(self, parts: Parts, connection: Connection, scope: Scope, entry: Entry, given: Given) -> None:
        """An entry was added.

        Args:
            parts: Of the store.
            connection: For writing.
            scope: Whose it is.
            entry: The entry.
            given: Its text.
        """

    def added_together(
        self,
        parts: Parts,
        connection: Connection,
        scope: Scope,
        together: Sequence[tuple[Entry, Given]],
        besides: Collection[str],
    ) -> None:
        """Pieces of one text were added. What is not overridden asks :meth:`added` for each.

        Args:
            parts: Of the store.
            connection: For writing.
            scope: Whose they are.
            together: The entries with their texts; a long text comes in several such groups.
            besides: Ids of all pieces of this text up to now, these among them.
        """
        for entry, given in together:
            self.added(parts, connection, scope, entry, given)
