"""SQLite: one file and its write-ahead log, no server, for one machine."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, create_engine, event, exc
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL

from r3mem.errors import InputError, StoreError
from r3mem.store.database import FULL, HELD, Database
from r3mem.store.schema import PREFIX
from r3mem.store.word_index import Fts5

#: Seconds that a call waits for another that writes.
PATIENCE = 60.0
#: Seconds that erasing waits for others who hold the files.
ERASING_PATIENCE = 10.0
#: SQLite's code for damage in a virtual table; Python tells it from 3.11 on.
CORRUPT_INDEX = 267
PRAGMAS = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    # What a sort needs beside the tables never touches the disk.
    "PRAGMA temp_store = MEMORY",
)


class Sqlite(Database):
    """A SQLite database.

    Args:
        path: The file; None for one that is removed when it is closed.

    Raises:
        InputError: There is no such folder, nothing may be written there, or it is another program's database.
        StoreError: No database, or a damaged one.
    """

    def __init__(self, path: Path | None) -> None:
        self._folder = None if path else tempfile.TemporaryDirectory(prefix="r3mem-")
        self.path = path.absolute() if path else Path(self._folder.name) / "memory.db" if self._folder else Path()
        self.name = str(path or "sqlite://")
        self.words = Fts5()
        if self.path.is_dir():
            raise InputError(f"{self.path} is a folder: give a file in it, such as {self.path / 'memory.db'}")
        if not self.path.parent.is_dir():
            raise InputError(f"{self.path.parent}: no such folder; make it, or give another path for the store")
        _refuse_foreign(self.path)
        self.engine = create_engine(
            URL.create("sqlite", database=str(self.path)),
            connect_args={"timeout": PATIENCE, "check_same_thread": False},
            pool_size=8, max_overflow=64, pool_timeout=PATIENCE, hide_parameters=True,
        )  # fmt: skip
        event.listen(self.engine, "connect", _prepare)
        event.listen(self.engine, "begin", _begin)

    def insert(self, table: Table) -> Any:
        """See :class:`Database`."""
        return insert(table)

    def advice(self, error: exc.DBAPIError) -> str:
        """See :class:`Database`."""
        why = str(error.orig)
        if "locked" in why or "busy" in why:
            return f"{self.name} is held by another process for more than {PATIENCE:.0f} s ({why}): try again"
        if "full" in why or "disk I/O" in why:
            return f"{self.name} cannot be written ({why}): free some space. Nothing of this call was kept"
        if "readonly" in why or "unable to open" in why:
            return f"{self.name} cannot be opened for writing ({why}): give the right to write to it and its folder"
        if getattr(error.orig, "sqlite_errorcode", None) == CORRUPT_INDEX or "r3mem_words" in why or "fts5" in why:
            return f"the full-text index of {self.name} is damaged ({why}): reindex(), or r3mem check --reindex"
        if "malformed" in why or "not a database" in why or "no such table" in why or "no such column" in why:
            return f"{self.name} is damaged or no database ({why}): take an undamaged copy"
        return f"{self.name} refuses ({why})"

    def lock_schema(self, connection: Connection) -> None:
        """See :class:`Database`. A transaction that writes has the database for itself."""

    def lock_owner(self, connection: Connection, owner: str) -> None:
        """See :class:`Database`. A transaction that writes has the database for itself."""

    def backup(self, version: int) -> str:
        """See :class:`Database`. SQLite's own copy, which is whole whoever writes meanwhile."""
        target = self.path.with_name(f"{self.path.name}.schema{version}.backup")
        try:
            with closing(sqlite3.connect(self.path)) as here, closing(sqlite3.connect(target)) as there:
                here.backup(there)
        except sqlite3.Error as error:
            raise StoreError(f"{target} cannot be written ({error}): the store was not migrated") from error
        return str(target)

    def erase(self) -> str | None:
        """See :class:`Database`. Free pages and slack go with VACUUM, the log is cut to nothing."""
        pooled: Any = None
        try:
            pooled = self.engine.raw_connection()
            raw: Any = pooled.dbapi_connection
            raw.execute(f"PRAGMA busy_timeout = {int(1000 * ERASING_PATIENCE)}")
            # Segments of the index that are merged hold no word of what was deleted.
            raw.execute(Fts5.OPTIMIZE)
            raw.execute("VACUUM")
            busy = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            return HELD if busy else None
        except sqlite3.Error as error:
            return _why_unerased(error)
        finally:
            if pooled is not None:
                pooled.dbapi_connection.execute(f"PRAGMA busy_timeout = {int(1000 * PATIENCE)}")
                pooled.close()

    def damage(self) -> list[str]:
        """See :class:`Database`."""
        try:
            with self.engine.connect() as connection:
                told = connection.exec_driver_sql("PRAGMA integrity_check(20)").scalars().all()
        except exc.DBAPIError as error:
            return [self.advice(error)]
        return [f"{self.name}: {line}: restore it from a copy" for line in told if line != "ok"]

    def disk_bytes(self) -> int:
        """See :class:`Database`."""
        files = [self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm")]
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """See :class:`Database`."""
        super().close()
        if self._folder:
            self._folder.cleanup()


def _refuse_foreign(path: Path) -> None:
    """Refuse the database of another program, before anything of it is changed: the first connection would.

    An empty file is a new store: SQLite makes one before it writes, and a process may end there.

    Raises:
        InputError: It has tables, and none of a store.
    """
    if not path.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=PATIENCE)) as raw:
            names = [row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
    except sqlite3.Error:
        # What is wrong with it is told when it is opened.
        return
    if names and not any(name.startswith(PREFIX) for name in names):
        raise InputError(
            f"{path} is a database of another program (table {names[0]!r:.60}): give the store a file of its own"
        )


def _why_unerased(error: sqlite3.Error) -> str:
    why = str(error)
    if "locked" in why or "busy" in why:
        return HELD
    if "full" in why or "disk I/O" in why:
        return f"{FULL} ({why})"
    if "malformed" in why:
        return f"the file is damaged ({why}): run check, and reindex where it names the index, else take a copy"
    return f"SQLite refuses ({why})"


def _prepare(raw: Any, _record: Any) -> None:
    # Transactions are begun below, not by the driver.
    raw.isolation_level = None
    until = time.monotonic() + PATIENCE
    while True:
        try:
            # Who changes to the log of a new database does not wait for others that do; the database tells at once.
            raw.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)
    for pragma in PRAGMAS:
        raw.execute(pragma)


def _begin(connection: Connection) -> None:
    # Who will write takes the right to write at once: no other can change in between what was read.
    write = connection.get_execution_options().get("r3mem_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
