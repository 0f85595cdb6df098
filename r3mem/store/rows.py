"""Rows of the tables as entries, and the statements that find them within a scope."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, select

from r3mem.errors import InputError, NotFound
from r3mem.store.database import in_groups
from r3mem.store.entries import Entry, Turn, Version
from r3mem.store.given import moment
from r3mem.store.schema import contents, entries, versions
from r3mem.store.scope import Scope


def within(scope: Scope) -> ColumnElement[bool]:
    """The condition that an entry is of a scope.

    Args:
        scope: The scope.
    """
    conditions = [entries.c.owner == scope.user]
    if scope.agent is not None:
        conditions.append(entries.c.agent == scope.agent)
    if scope.session is not None:
        conditions.append(entries.c.session == scope.session)
    return and_(*conditions)


def entry_rows() -> Select[Any]:
    """Entries with what their current text's content says."""
    told = (contents.c[name] for name in ("bytes", "digest", "state", "tokens", "positions"))
    return select(entries, *told).join(contents, contents.c.n == entries.c.content)


def entry_of(row: Row[Any]) -> Entry:
    """An entry of a row of :func:`entry_rows`.

    Args:
        row: The row.
    """
    r = row._mapping
    level = "consolidated" if r["consolidated"] or r["part_of"] else "record" if r["state"] == "ready" else "raw"
    return Entry(
        r["id"], r["owner"], r["agent"], r["session"], r["kind"], r["source"], r["start_at"], r["end_at"],
        moment(r["time"]), moment(r["created"]), json.loads(r["metadata"]), r["version"], r["state"], level,
        r["tokens"], r["positions"], r["bytes"], r["digest"], turns_of(r["turns"]), r["superseded_by"], r["part_of"],
    )  # fmt: skip


def turns_of(told: str | None) -> tuple[Turn, ...]:
    """The messages of a conversation of what a row says of them.

    Args:
        told: JSON, or None.
    """
    return tuple(Turn(*turn) for turn in json.loads(told)) if told else ()


def turns_told(turns: Sequence[Turn]) -> str | None:
    """What a row says of the messages of a conversation.

    Args:
        turns: The messages.
    """
    return json.dumps([[turn.role, turn.start, turn.end] for turn in turns]) if turns else None


def given_ids(given: object) -> list[str]:
    """Ids that were given: one, or several in order.

    Args:
        given: An id, or a list of them.

    Raises:
        InputError: Something else.
    """
    return [given_id(each) for each in given] if isinstance(given, list | tuple) else [given_id(given, several=True)]


def given_id(given: object, several: bool = False) -> str:
    """An id that was given. What no entry can have stays in, and is found nowhere.

    Args:
        given: It.
        several: Whether a list of them may be given too.

    Raises:
        InputError: No string.
    """
    if not isinstance(given, str):
        more = ", or a list of them" if several else ", one at a time" if isinstance(given, list | tuple | set) else ""
        raise InputError(f"an id is a str, not {type(given).__name__}: give the id of an entry, as list tells it{more}")
    return given


def found_entry(connection: Connection, id: str, scope: Scope) -> Entry:
    """An entry of a scope.

    Args:
        connection: Any.
        id: The entry.
        scope: The scope.

    Raises:
        NotFound: There is none: unknown, deleted, or of another scope.
        InputError: The id is no string.
    """
    row = None
    if given_id(id).isascii() and "\0" not in id:
        row = connection.execute(entry_rows().where(entries.c.id == id, within(scope))).first()
    if row is None:
        raise NotFound(f"entry {id!r:.60} is not there: list gives the ids of the user's entries")
    return entry_of(row)


def found_entries(connection: Connection, ids: Sequence[str]) -> dict[str, Entry]:
    """Entries by their ids, of any scope; those that are gone are left out.

    Args:
        connection: Any.
        ids: The entries.
    """
    found = {}
    for group in in_groups(ids):
        for row in connection.execute(entry_rows().where(entries.c.id.in_(group))):
            found[row.id] = entry_of(row)
    return found


def found_versions(connection: Connection, id: str) -> list[Version]:
    """All versions of an entry, oldest first.

    Args:
        connection: Any.
        id: The entry.
    """
    rows = connection.execute(
        select(versions, contents.c.state, contents.c.bytes, contents.c.digest)
        .join(contents, contents.c.n == versions.c.content)
        .where(versions.c.entry == id)
        .order_by(versions.c.number)
    )
    return [Version(r.entry, r.number, moment(r.time), r.why, r.state, r.bytes, r.digest) for r in rows]
