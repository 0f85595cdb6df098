"""How much a store holds."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from r3mem.store.deleting import unerased
from r3mem.store.parts import Parts
from r3mem.store.reports import Stats
from r3mem.store.schema import blobs, contents, entries, versions


def stats_of(parts: Parts, user: str | None) -> Stats:
    """Count what is there.

    Args:
        parts: Of the store.
        user: Only this user's; None for all.
    """
    mine = owned(user)
    own = entries.c.owner == user if user is not None else entries.c.id != ""
    with parts.database.reading() as connection:
        ready = func.sum(contents.c.tokens), func.sum(contents.c.positions)
        texts = func.count(), func.sum(contents.c.bytes), func.sum(func.length(contents.c.raw))
        told = _sums(connection, select(*texts, func.sum(func.length(contents.c.words)), *ready).where(mine))
        of_state = select(contents.c.state, func.count()).where(mine).group_by(contents.c.state)
        states = {row[0]: int(row[1]) for row in connection.execute(of_state)}
        of_reason = select(contents.c.error, func.count()).where(mine, contents.c.state == "failed")
        reasons = {str(row[0]): int(row[1]) for row in connection.execute(of_reason.group_by(contents.c.error))}
        of_model = select(contents.c.model, func.count()).where(mine, contents.c.model.isnot(None))
        models = {str(row[0]): int(row[1]) for row in connection.execute(of_model.group_by(contents.c.model))}
        counted = select(func.count(), func.count(func.distinct(entries.c.owner))).where(own)
        n_entries, users = _sums(connection, counted)
        of_versions = select(func.count()).select_from(versions).join(entries, entries.c.id == versions.c.entry)
        (n_versions,) = _sums(connection, of_versions.where(own))
        held = select(func.sum(blobs.c.bytes)).join(contents, contents.c.n == blobs.c.content).where(mine)
        (blob_bytes,) = _sums(connection, held)
        why = unerased(parts, connection)
    return Stats(
        entries=n_entries, versions=n_versions, contents=told[0], pending=states.get("pending", 0),
        failed=states.get("failed", 0), reasons=reasons, users=users, tokens=told[4], positions=told[5],
        text_bytes=told[1], raw_bytes=told[2], blob_bytes=blob_bytes, index_bytes=told[3],
        disk_bytes=parts.database.disk_bytes() if user is None else 0, models=models,
        unerased=why is not None, unerased_why=why,
    )  # fmt: skip


def owned(user: str | None) -> ColumnElement[bool]:
    """The condition that a content is a user's, or anybody's.

    Args:
        user: None for anybody.
    """
    return contents.c.owner == user if user is not None else contents.c.n > 0


def _sums(connection: Connection, asked: Any) -> list[int]:
    return [int(value or 0) for value in connection.execute(asked).one()]
