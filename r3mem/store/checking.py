"""Damage, found and named."""

from __future__ import annotations

from sqlalchemy import select

from r3mem.errors import FingerprintError, InputError, RecallError
from r3mem.store.parts import Parts
from r3mem.store.recalling import Held, blob_bytes, held, text_bytes
from r3mem.store.reports import Problem
from r3mem.store.schema import blobs, contents, entries, versions
from r3mem.store.texts import named

PAGE = 200


def problems(parts: Parts, recall: bool) -> list[Problem]:
    """Read every content.

    Args:
        parts: Of the store.
        recall: Whether texts are recalled too.
    """
    found = [Problem(None, None, None, what) for what in parts.database.damage()]
    last = 0
    while True:
        with parts.database.reading() as connection:
            asked = select(contents.c.n).where(contents.c.n > last).order_by(contents.c.n).limit(PAGE)
            numbers = list(connection.execute(asked).scalars())
        for n in numbers:
            found += _of(parts, n, recall)
        if len(numbers) < PAGE:
            return found
        last = numbers[-1]


def _of(parts: Parts, n: int, recall: bool) -> list[Problem]:
    asked = (
        select(versions.c.entry, versions.c.number, entries.c.owner)
        .join(entries, entries.c.id == versions.c.entry)
        .where(versions.c.content == n)
        .order_by(versions.c.entry, versions.c.number)
    )
    with parts.database.reading() as connection:
        rows = connection.execute(asked).all()
        name = named(rows[0].entry, rows[0].number) if rows else f"content {n}"
        whole: Held | None = None
        try:
            whole = held(parts, connection, n, name)
            what = None
            if connection.execute(select(blobs.c.content).where(blobs.c.content == n)).first() is not None:
                # Read where the raw text is kept too, and nobody else would look.
                blob_bytes(parts, connection, n, name)
        except RecallError as error:
            what = str(error)
        except InputError:
            # Deleted meanwhile.
            return []
    if what is None and whole is not None and (recall or whole.row.raw is not None):
        try:
            text_bytes(parts, whole, name)
        except (RecallError, FingerprintError) as error:
            what = str(error)
    if what is None:
        return []
    if not rows:
        return [Problem(None, None, None, what)]
    return [Problem(row.entry, row.number, row.owner, what) for row in rows]
