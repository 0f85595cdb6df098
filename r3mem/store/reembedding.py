"""Memories of another model, made anew: their texts are recalled by the model that made them, and are pending again."""

from __future__ import annotations

from sqlalchemy import select, update

from r3mem.store.adding import queue
from r3mem.store.deleting import drop_blob
from r3mem.store.models import ModelOnNeed
from r3mem.store.parts import Parts
from r3mem.store.recalling import held, text_bytes
from r3mem.store.rows import within
from r3mem.store.schema import contents, entries, jobs, versions
from r3mem.store.scope import Scope


def raw_again(parts: Parts, scope: Scope, old: ModelOnNeed | None) -> int:
    """Make texts raw whose memories are another model's; how many.

    Args:
        parts: Of the store, with its model now.
        scope: Whose.
        old: What made them; None where raw texts are kept.

    Raises:
        FingerprintError: Neither model made one of them; those before it are done.
    """
    from r3mem.store.memories import made_by

    model, names = parts.model.get(), dict[int | None, str]()
    mine = select(versions.c.content).join(entries, entries.c.id == versions.c.entry).where(within(scope))
    made = (contents.c.n.in_(mine) | _wholes(scope)) & contents.c.model.isnot(None)
    with parts.database.reading() as connection:
        rows = connection.execute(select(contents.c.n, contents.c.model, contents.c.ratio).where(made)).all()
    count, then = 0, Parts(parts.database, parts.blobs, old or parts.model, parts.keep_text, parts.clock)
    for row in rows:
        if row.ratio not in names:
            names[row.ratio] = made_by(model, row.ratio)
        if row.model == names[row.ratio]:
            continue
        name = f"content {row.n}"
        with parts.database.reading() as connection:
            found = held(parts, connection, row.n, name)
        raw = text_bytes(then, found, name)
        with parts.database.writing(scope.user) as connection:
            values = {"state": "pending", "error": None, "model": None, "tokens": 0, "positions": 0}
            changed = connection.execute(
                update(contents).where(contents.c.n == row.n, contents.c.model == row.model).values(raw=raw, **values)
            ).rowcount
            if changed:
                drop_blob(parts, connection, row.n)
                connection.execute(jobs.delete().where(jobs.c.content == row.n))
                queue(parts, connection, [row.n])
                count += 1
    return count


def _wholes(scope: Scope):  # type: ignore[no-untyped-def]
    """Coarser contents of which entries of a scope are slices."""
    slices = contents.alias()
    mine = select(versions.c.content).join(entries, entries.c.id == versions.c.entry).where(within(scope))
    return contents.c.n.in_(select(slices.c.within).where(slices.c.n.in_(mine), slices.c.within.isnot(None)))
