"""Steps from one schema of the database to the next; a database is brought to the newest when it is opened."""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlalchemy import Connection, inspect

from r3mem.errors import StoreError
from r3mem.store.database import Database, said
from r3mem.store.migrations import m0001_first
from r3mem.store.schema import PREFIX, meta, tables

#: The step to each version, from 1. A step that has been released is never changed.
STEPS: list[Callable[[Connection, Database], None]] = [m0001_first.up]
COPY = "take an undamaged copy. Nothing was changed"


def migrate(database: Database) -> None:
    """Make the tables, or bring them to the newest schema; an older store is copied first.

    Args:
        database: The database.

    Raises:
        StoreError: It was written by a newer version, is damaged, or cannot be copied.
    """
    newest = len(STEPS)
    found = _found(database, newest)
    if found == newest:
        return
    if found > newest:
        raise StoreError(
            f"{database.name} has schema {found}, this version knows schemas up to {newest}: "
            "open it with the newer version of r3mem that wrote it. Nothing was changed"
        )
    copied = database.backup(found) if found else None
    with database.writing() as connection:
        database.lock_schema(connection)
        # Another process may have done it meanwhile.
        for number in range(_version(connection, database), newest):
            STEPS[number](connection, database)
        database.say(connection, "schema", str(newest))
        if copied:
            database.say(connection, "backup", copied)


def _found(database: Database, newest: int) -> int:
    with database.reading() as connection:
        found, there = _version(connection, database), _ours(connection)
    missing = sorted(set(tables.tables) - there)
    if found == newest and missing:
        raise StoreError(f"{database.name} is damaged (no table {', '.join(missing)}): {COPY}")
    return found


def _version(connection: Connection, database: Database) -> int:
    """The schema; 0 where nothing of a store is there.

    Raises:
        StoreError: Tables are there, and not what their schema is. They are never made anew over those that are left.
    """
    there = _ours(connection)
    if not there:
        return 0
    if meta.name not in there:
        raise StoreError(f"{database.name} is damaged (no table {meta.name} beside {min(there)}): {COPY}")
    told = said(connection, "schema")
    if told is None or not re.fullmatch("[1-9][0-9]{0,5}", told):
        raise StoreError(f"{database.name} is damaged ({meta.name} says schema {told!r:.20}): {COPY}")
    return int(told)


def _ours(connection: Connection) -> set[str]:
    return {name for name in inspect(connection).get_table_names() if name.startswith(PREFIX)}
