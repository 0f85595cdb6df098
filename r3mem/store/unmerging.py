"""Coarser memories that lose a part: the texts that stay are raw again, and compressed anew without it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, select, update

from r3mem.errors import FingerprintError, InputError, RecallError
from r3mem.store.adding import queue
from r3mem.store.database import in_groups
from r3mem.store.parts import Parts
from r3mem.store.recalling import held, text_bytes
from r3mem.store.schema import contents, versions


def wholes_of(connection: Connection, ids: Sequence[str]) -> list[int]:
    """Coarser contents of which texts of these entries are slices.

    Args:
        connection: Any.
        ids: The entries.
    """
    found = set[int]()
    for group in in_groups(ids):
        mine = select(versions.c.content).where(versions.c.entry.in_(group))
        rows = connection.execute(
            select(contents.c.within).where(contents.c.n.in_(mine), contents.c.within.isnot(None))
        )
        found |= set(rows.scalars())
    return sorted(found)


def cut_loose(parts: Parts, owner: str, whole: int, doomed: Collection[str]) -> None:
    """Give slices of a coarser content that stay a text of their own again; the coarser one goes with its entry.

    Args:
        parts: Of the store.
        owner: Whose it is.
        whole: The coarser content.
        doomed: Entries that go.
    """
    name = "a consolidated memory"
    with parts.database.reading() as connection:
        slices = staying(connection, whole, doomed)
        lost: str | None = None
        if slices:
            try:
                found = held(parts, connection, whole, name)
            except (RecallError, InputError) as error:
                lost, found = str(error), None
    if not slices:
        return
    text = b""
    if lost is None and found is not None:
        try:
            text = text_bytes(parts, found, name)
        except (RecallError, FingerprintError) as error:
            lost = str(error)
    if lost is not None:
        # Nothing may be lost for the others: they stay slices of a whole that can be restored.
        raise RecallError(
            f"{lost}. Other entries are kept in the same memory, so that nothing was deleted: restore it, open the "
            "store with the model that made it, or delete the whole consolidated entry"
        )
    with parts.database.writing(owner) as connection:
        for n in staying(connection, whole, doomed):
            row = connection.execute(select(contents).where(contents.c.n == n)).one()
            raw = text[row.within_start : row.within_end]
            if hashlib.sha256(raw).hexdigest() != row.digest:
                raise RecallError(f"{name}: a part of it is not the text that was kept: restore the store from a copy")
            values = {"within": None, "within_start": None, "within_end": None, "state": "pending", "ratio": None}
            connection.execute(update(contents).where(contents.c.n == n).values(raw=raw, **values))
            queue(parts, connection, [n])


def staying(connection: Connection, whole: int, doomed: Collection[str]) -> list[int]:
    """Slices of a content that versions of entries have which do not go.

    Args:
        connection: Any.
        whole: The content.
        doomed: Entries that go.
    """
    slices = connection.execute(select(contents.c.n).where(contents.c.within == whole)).scalars().all()
    found = []
    for group in in_groups(slices):
        rows = connection.execute(select(versions.c.content, versions.c.entry).where(versions.c.content.in_(group)))
        found += [row.content for row in rows if row.entry not in doomed]
    return sorted(set(found))
