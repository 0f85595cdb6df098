"""Steps from one schema of the database to the next; a database is brought to the newest when it is opened."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, inspect

from r3mem.errors import StoreError
from r3mem.store.database import Database, said
from r3mem.store.migrations import m0001_first
from r3mem.store.schema import meta

#: The step to each version, from 1. A step that has been released is never changed.
STEPS: list[Callable[[Connection, Database], None]] = [m0001_first.up]


def migrate(database: Database) -> None:
    """Make the tables, or bring them to the newest schema; an older store is copied first.

    Args:
        database: The database.

    Raises:
        StoreError: It was written by a newer version, or cannot be copied.
    """
    newest = len(STEPS)
    found = _found(database)
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
        for number in range(_version(connection), newest):
            STEPS[number](connection, database)
        database.say(connection, "schema", str(newest))
        if copied:
            database.say(connection, "backup", copied)


def _found(database: Database) -> int:
    with database.reading() as connection:
        return _version(connection)


def _version(connection: Connection) -> int:
    if not inspect(connection).has_table(meta.name):
        return 0
    return int(said(connection, "schema") or 0)
