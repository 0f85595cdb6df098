"""Damage, found and named."""

from __future__ import annotations

from sqlalchemy import Connection, select

from r3mem.errors import FingerprintError, InputError, RecallError, StoreError
from r3mem.store.parts import Parts
from r3mem.store.recalling import Held, blob_bytes, held, text_bytes
from r3mem.store.reindexing import kept_words
from r3mem.store.reports import Problem
from r3mem.store.schema import blobs, contents, entries, jobs, versions
from r3mem.store.texts import named

PAGE = 200
COPY = "take an undamaged copy"
REINDEX = "searches may miss texts until reindex(), or r3mem check --reindex, makes it anew"


def problems(parts: Parts, recall: bool) -> list[Problem]:
    """Read every content.

    Args:
        parts: Of the store.
        recall: Whether texts are recalled too.
    """
    found = [Problem(None, None, None, what) for what in parts.database.damage()]
    found += _without_text(parts) + _in_index(parts)
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


def _without_text(parts: Parts) -> list[Problem]:
    """Versions whose text's row is gone; lists leave their entries out."""
    asked = (
        select(versions.c.entry, versions.c.number, entries.c.owner)
        .select_from(versions.outerjoin(entries, entries.c.id == versions.c.entry))
        .outerjoin(contents, contents.c.n == versions.c.content)
        .where(contents.c.n.is_(None))
        .order_by(versions.c.entry, versions.c.number)
    )
    with parts.database.reading() as connection:
        rows = connection.execute(asked).all()
    return [Problem(r.entry, r.number, r.owner, f"{named(r.entry, r.number)}: its text is gone: {COPY}") for r in rows]


def _in_index(parts: Parts) -> list[Problem]:
    """What the full-text index says of each content, compared with the words that are kept beside it."""
    database, index = parts.database, parts.database.words
    try:
        # FTS5 takes the command as a change, though it changes nothing.
        with database.writing() as connection:
            index.check(connection)
        with database.reading() as connection:
            held_there, last = index.signs(connection), 0
            odd = list[int]()
            asked = select(contents.c.n, contents.c.owner, contents.c.words).order_by(contents.c.n).limit(PAGE)
            while rows := connection.execute(asked.where(contents.c.n > last)).all():
                expected = index.signs_of(connection, {row.n: (row.owner, row.words) for row in rows})
                odd += [row.n for row in rows if held_there.pop(row.n, None) != expected.get(row.n)]
                last = rows[-1].n
            found = [
                Problem(id, number, owner, f"{name}: the full-text index does not hold its words: {REINDEX}")
                for n in odd
                for id, number, owner, name in _named(connection, n)
            ]
    except StoreError as error:
        return [Problem(None, None, None, f"the full-text index cannot be read ({error}): {REINDEX}")]
    if held_there:
        what = f"the full-text index holds words of texts that are not kept ({len(held_there)}): {REINDEX}"
        found.append(Problem(None, None, None, what))
    return found


def _named(connection: Connection, n: int) -> list[tuple[str | None, int | None, str | None, str]]:
    """Versions with a content: entry, number, user, and what it is called."""
    asked = (
        select(versions.c.entry, versions.c.number, entries.c.owner)
        .join(entries, entries.c.id == versions.c.entry)
        .where(versions.c.content == n)
        .order_by(versions.c.entry, versions.c.number)
    )
    rows = connection.execute(asked).all()
    return [(r.entry, r.number, r.owner, named(r.entry, r.number)) for r in rows] or [
        (None, None, None, f"content {n}")
    ]


def _of(parts: Parts, n: int, recall: bool) -> list[Problem]:
    with parts.database.reading() as connection:
        concerned = _named(connection, n)
        name = concerned[0][3]
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
        queued = connection.execute(select(jobs.c.content).where(jobs.c.content == n)).first() is not None
    if whole is not None and whole.row.state == "pending" and not queued:
        what = f"{name}: its text waits for compression and is in no queue: reindex() puts it there"
    if what is None and whole is not None and (recall or whole.row.raw is not None):
        try:
            words = kept_words(text_bytes(parts, whole, name).decode())
            if words != whole.row.words:
                what = f"{name}: the words kept for searches are not those of its text: {REINDEX}"
                what += "" if whole.row.raw is not None else "; with recall"
        except (RecallError, FingerprintError) as error:
            what = str(error)
    return [] if what is None else [Problem(id, number, owner, what) for id, number, owner, _ in concerned]
