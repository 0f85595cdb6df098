"""PostgreSQL: many machines, many writers; of one user's entries one at a time."""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy import Connection, Table, create_engine, event, exc, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import URL

from r3mem.store.database import FULL, HELD, Database
from r3mem.store.schema import tables
from r3mem.store.word_index import Tsvector

#: Number of the lock under which tables are made; any will do, if it is always the same.
SCHEMA_LOCK = 0x72336D656D
#: Seconds that erasing waits for others who hold a table.
PATIENCE = 10
#: What the server says where a lock or space is missing.
LOCKED, DISK_FULL = "55P03", "53100"


class Postgresql(Database):
    """A PostgreSQL database.

    Args:
        url: SQLAlchemy's, with the driver ``psycopg``.
    """

    def __init__(self, url: URL) -> None:
        self.name = url.render_as_string(hide_password=True)
        self.words = Tsvector()
        self.engine = create_engine(
            url, pool_size=8, max_overflow=32, pool_pre_ping=True, hide_parameters=True,
            connect_args={"client_encoding": "utf8", "application_name": "r3mem"},
        )  # fmt: skip
        event.listen(self.engine, "begin", _begin)

    def insert(self, table: Table) -> Any:
        """See :class:`Database`."""
        return insert(table)

    def advice(self, error: exc.DBAPIError) -> str:
        """See :class:`Database`."""
        why = _first_line(error)
        if getattr(error.orig, "sqlstate", None) == DISK_FULL:
            return f"{self.name} has no space left ({why}): free some. Nothing of this call was kept"
        if error.connection_invalidated or isinstance(error, exc.OperationalError):
            return f"{self.name} cannot be reached or refuses ({why}): check that the server runs, and try again"
        return f"{self.name} refuses ({why})"

    def lock_schema(self, connection: Connection) -> None:
        """See :class:`Database`."""
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": SCHEMA_LOCK})

    def lock_owner(self, connection: Connection, owner: str) -> None:
        """See :class:`Database`."""
        sign = int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8], "big", signed=True)
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": sign})

    def backup(self, version: int) -> str:
        """See :class:`Database`. Copies of the tables, in a schema of their own."""
        target = f"r3mem_backup_schema{version}"
        with self.writing() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {target} CASCADE")
            connection.exec_driver_sql(f"CREATE SCHEMA {target}")
            for name in tables.tables:
                there = connection.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar()
                if there is not None:
                    connection.exec_driver_sql(f"CREATE TABLE {target}.{name} AS TABLE {name}")
        return f"schema {target} of {self.name}"

    def erase(self) -> str | None:
        """See :class:`Database`. Tables and their indexes are written anew; the server's log is the server's."""
        try:
            with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                try:
                    connection.exec_driver_sql(f"SET lock_timeout = '{PATIENCE}s'")
                    for name in tables.tables:
                        connection.exec_driver_sql(f"VACUUM (FULL) {name}")
                    connection.exec_driver_sql("SET lock_timeout = DEFAULT")
                except exc.DBAPIError:
                    connection.invalidate()
                    raise
        except exc.DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            return {LOCKED: HELD, DISK_FULL: FULL}.get(str(state)) or f"the server refuses ({_first_line(error)})"
        return None

    def damage(self) -> list[str]:
        """See :class:`Database`. The server looks after its files itself."""
        return []

    def disk_bytes(self) -> int:
        """See :class:`Database`."""
        with self.reading() as connection:
            sizes = [
                connection.execute(text("SELECT pg_total_relation_size(CAST(:name AS regclass))"), {"name": name})
                for name in tables.tables
            ]
            return sum(int(size.scalar() or 0) for size in sizes)


def _first_line(error: exc.DBAPIError) -> str:
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("r3mem_write") and options.get("isolation_level") != "AUTOCOMMIT":
        # A reader sees one state of all tables, however many statements it takes.
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
