"""An older entry of nearly the same words is superseded."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Connection, select

from r3mem.errors import ConfigError
from r3mem.store.adding import note_superseded
from r3mem.store.entries import Entry
from r3mem.store.given import Given, microseconds
from r3mem.store.parts import Parts
from r3mem.store.rows import within
from r3mem.store.schema import contents, entries
from r3mem.store.scope import Scope
from r3mem.store.updating.base import Updating
from r3mem.store.words import words_of


class Supersede(Updating):
    """A new text supersedes the older ones of the same scope that have nearly its words, and not all of them.

    The rule is about words alone and understands nothing: ``share`` is the number of different words that both have,
    over the number that either has. "My dog is called Rex" and "My dog is called Max" share 4 of 6, which is 0.67;
    "Rex is gone, the dog is Max now" shares less, and supersedes nothing. Long texts hardly ever do. Equal texts stay
    two entries. What was superseded is in the list and in its history, with the time, and is no longer found; if the
    newer entry is deleted it is found again.

    Args:
        share: Words in common from which on an older entry is superseded, over 0 and up to 1.
        first: Entries that are compared: so many that full-text search finds first.
    """

    def __init__(self, share: float = 0.6, first: int = 20) -> None:
        if not 0 < share <= 1 or first < 1:
            raise ConfigError(
                f"Supersede with share {share} and first {first}: share is over 0 up to 1, first 1 or more"
            )
        self.share, self.first = share, first

    def added(self, parts: Parts, connection: Connection, scope: Scope, entry: Entry, given: Given) -> None:
        """See :class:`Updating`."""
        self._supersede(parts, connection, scope, entry, given, {entry.id})

    def added_together(
        self,
        parts: Parts,
        connection: Connection,
        scope: Scope,
        together: Sequence[tuple[Entry, Given]],
        besides: Collection[str],
    ) -> None:
        """See :class:`Updating`. Pieces of one text supersede older ones, and not each other."""
        others = select(entries.c.id).where(within(scope), entries.c.superseded_by.is_(None))
        if len(connection.execute(others.limit(len(besides) + 1)).all()) <= len(besides):
            # Nothing is older: a long text costs no search for each piece.
            return
        for entry, given in together:
            self._supersede(parts, connection, scope, entry, given, besides)

    def _supersede(
        self,
        parts: Parts,
        connection: Connection,
        scope: Scope,
        entry: Entry,
        given: Given,
        besides: Collection[str],
    ) -> None:
        words = words_of(given.text)
        if not words:
            return
        # Pieces of the same text, which are found too, take no older one's place.
        k = self.first + len(besides) - 1
        found = parts.database.words.search(connection, words, scope.user, scope.agent, scope.session, k)
        own = set(words)
        for id in [id for id, _ in found if id not in besides][: self.first]:
            row = connection.execute(
                select(contents.c.words, contents.c.digest, entries.c.time, entries.c.consolidated)
                .join(entries, entries.c.content == contents.c.n)
                .where(entries.c.id == id)
            ).one()
            theirs = set(row.words.split())
            newer = row.time > microseconds(entry.time)
            if row.digest == given.digest or newer or row.consolidated or not theirs:
                continue
            if len(own & theirs) / len(own | theirs) >= self.share:
                note_superseded(parts, connection, id, entry.id)
