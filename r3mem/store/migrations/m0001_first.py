"""Schema 1: the first."""

from __future__ import annotations

from sqlalchemy import Connection

from r3mem.store.database import Database
from r3mem.store.schema import tables


def up(connection: Connection, database: Database) -> None:
    """Make the tables and the full-text index.

    Args:
        connection: For writing.
        database: Whose index.
    """
    tables.create_all(connection, checkfirst=True)
    database.words.create(connection)
