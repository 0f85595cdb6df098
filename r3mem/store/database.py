"""A database: connections for reading and for writing, errors told in words, and bytes that are really erased."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Table, exc, select

from r3mem.errors import StoreError
from r3mem.store.schema import meta
from r3mem.store.word_index import WordIndex

#: Why bytes of what was deleted could not be erased.
HELD = "another process holds the files: end it, or wait for it"
FULL = "the disk is full, and files are written anew to erase them: free as much space as the store takes"


class Database(ABC):
    """SQLite or PostgreSQL.

    Attributes:
        name: What it is called in messages; no password in it.
        engine: SQLAlchemy's.
        words: Its full-text index.
    """

    name: str
    engine: Engine
    words: WordIndex

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One view of the database, as it was when the first row was read.

        Raises:
            StoreError: It cannot be read.
        """
        with self.told(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, owner: str | None = None) -> Iterator[Connection]:
        """All that is written inside is on the disk afterwards, or nothing of it.

        Args:
            owner: Whose entries or texts are changed: nobody else changes this user's until the end. Two that
                changed the same rows in another order would wait for each other. None where no user's are.

        Raises:
            StoreError: It cannot be written.
        """
        with self.told(), self.engine.connect().execution_options(r3mem_write=True) as connection, connection.begin():
            if owner is not None:
                self.lock_owner(connection, owner)
            yield connection

    @contextmanager
    def told(self) -> Iterator[None]:
        """Inside, what the database refuses is told with what to do about it.

        Raises:
            StoreError: It refused.
        """
        try:
            yield
        except exc.TimeoutError as error:
            raise StoreError(f"{self.name}: all connections are in use: close what is not needed") from error
        except exc.DBAPIError as error:
            raise StoreError(self.advice(error)) from error

    def insert_new(self, connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows, except where one with the same key is there.

        Args:
            connection: For writing.
            table: The table.
            rows: One or more.
        """
        connection.execute(self.insert(table).on_conflict_do_nothing(), one_or_all(rows))

    def say(self, connection: Connection, name: str, value: str) -> None:
        """Write a value that the store knows of itself.

        Args:
            connection: For writing.
            name: Of the value.
            value: The value.
        """
        statement = self.insert(meta).values(name=name, value=value)
        connection.execute(statement.on_conflict_do_update(index_elements=[meta.c.name], set_={"value": value}))

    @abstractmethod
    def insert(self, table: Table) -> Any:
        """An insert of this kind of database, which can say what happens where a row with the same key is there."""

    @abstractmethod
    def advice(self, error: exc.DBAPIError) -> str:
        """What happened, and what to do."""

    @abstractmethod
    def lock_schema(self, connection: Connection) -> None:
        """Let nobody else make or migrate tables until the transaction ends."""

    @abstractmethod
    def lock_owner(self, connection: Connection, owner: str) -> None:
        """Let nobody else change what a user keeps until the transaction ends."""

    @abstractmethod
    def backup(self, version: int) -> str:
        """Copy the database before its schema is migrated, or say that its owner has to.

        Args:
            version: The schema it has.

        Returns:
            Where the copy is.

        Raises:
            StoreError: It cannot be copied.
        """

    @abstractmethod
    def erase(self) -> str | None:
        """Take the bytes of deleted rows out of the files.

        Returns:
            None if it was done; else why not, and what to do.
        """

    @abstractmethod
    def damage(self) -> list[str]:
        """What the database itself finds wrong with its files."""

    @abstractmethod
    def disk_bytes(self) -> int:
        """Bytes of the database's files."""

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def said(connection: Connection, name: str) -> str | None:
    """A value of the table of what the store knows of itself.

    Args:
        connection: Any.
        name: Of the value.
    """
    found: str | None = connection.execute(select(meta.c.value).where(meta.c.name == name)).scalar()
    return found


def one_or_all(rows: Sequence[dict[str, Any]]) -> Any:
    """Rows as they are given to a statement: a single one by itself, which costs SQLAlchemy less.

    Args:
        rows: One or more.
    """
    return rows[0] if len(rows) == 1 else rows


def in_groups(values: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    """Pieces of a long list: a statement takes a limited number of values.

    Args:
        values: The list.
        size: Values of a piece.
    """
    for at in range(0, len(values), size):
        yield values[at : at + size]
