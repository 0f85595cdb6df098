"""Older entries stay as they are."""

from __future__ import annotations

from sqlalchemy import Connection

from r3mem.store.entries import Entry
from r3mem.store.given import Given
from r3mem.store.parts import Parts
from r3mem.store.scope import Scope
from r3mem.store.updating.base import Updating


class Replace(Updating):
    """Nothing is superseded unless its owner says so, by ``update``."""

    def added(self, parts: Parts, connection: Connection, scope: Scope, entry: Entry, given: Given) -> None:
        """See :class:`Updating`."""
