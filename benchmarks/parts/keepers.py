"""Where texts are kept: the memory store, and a plain table of SQLite's full-text search, behind the same calls."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from r3mem import R3Mem
from r3mem.store import MemoryStore

USER = "ann"


class Keeper(Protocol):
    """Keeps texts."""

    def fill(self, texts: Sequence[str], characters: int) -> None:
        """Keep many texts at once: those that a long one is cut into, each of so many characters at most."""

    def add(self, text: str) -> Any:
        """Keep a text; its name, once it is on the disk."""

    def names(self, most: int) -> list[Any]:
        """Names of so many of the texts."""

    def get(self, name: Any) -> None:
        """What is kept beside a text."""

    def recall(self, name: Any) -> str:
        """The text."""

    def search(self, query: str, k: int) -> list[Any]:
        """Names of texts, best first."""

    def delete(self, name: Any) -> None:
        """Remove a text."""

    def sizes(self) -> dict[str, float]:
        """Bytes a text, by what they are."""

    def close(self) -> None:
        """Close it."""


class StoreKeeper:
    """The memory store; texts are compressed when it is asked to wait, else not.

    Args:
        url: An empty database.
        model: None where nothing is compressed.
    """

    def __init__(self, url: str, model: R3Mem | None = None) -> None:
        self.store = MemoryStore.open(url, model=model, compress="later")

    def fill(self, texts: Sequence[str], characters: int) -> None:
        """See :class:`Keeper`."""
        made = self.store.add_pieces(texts, user=USER, characters=characters)
        assert len(made) == len(texts)

    def add(self, text: str) -> Any:
        """See :class:`Keeper`."""
        return self.store.add(text, user=USER).id

    def names(self, most: int) -> list[Any]:
        """See :class:`Keeper`."""
        return [entry.id for entry in self.store.list(user=USER, limit=most)]

    def get(self, name: Any) -> None:
        """See :class:`Keeper`."""
        self.store.get(name, user=USER)

    def recall(self, name: Any) -> str:
        """See :class:`Keeper`."""
        return self.store.recall(name, user=USER)

    def search(self, query: str, k: int) -> list[Any]:
        """See :class:`Keeper`."""
        return [hit.entry.id for hit in self.store.search(query, user=USER, k=k)]

    def delete(self, name: Any) -> None:
        """See :class:`Keeper`. Its bytes are erased from the files too."""
        self.store.delete(name, user=USER)

    def sizes(self) -> dict[str, float]:
        """See :class:`Keeper`."""
        told = self.store.stats()
        names = ("text_bytes", "raw_bytes", "blob_bytes", "index_bytes", "disk_bytes")
        return {f"{name}_per_entry": round(getattr(told, name) / max(told.entries, 1), 1) for name in names}

    def close(self) -> None:
        """See :class:`Keeper`."""
        self.store.close()


class PlainFts5:
    """One table of texts in SQLite's FTS5, as safe on the disk as the store's and with the same stems. No users.

    Args:
        path: A new file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE VIRTUAL TABLE texts USING fts5(text, tokenize='porter unicode61')")

    def fill(self, texts: Sequence[str], characters: int) -> None:
        """See :class:`Keeper`."""
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT INTO texts(text) VALUES (?)", ((text,) for text in texts))
        self._database.execute("COMMIT")

    def add(self, text: str) -> Any:
        """See :class:`Keeper`."""
        return self._database.execute("INSERT INTO texts(text) VALUES (?)", (text,)).lastrowid

    def names(self, most: int) -> list[Any]:
        """See :class:`Keeper`."""
        return [row[0] for row in self._database.execute("SELECT rowid FROM texts ORDER BY rowid LIMIT ?", (most,))]

    def get(self, name: Any) -> None:
        """See :class:`Keeper`. There is nothing beside the text."""
        self.recall(name)

    def recall(self, name: Any) -> str:
        """See :class:`Keeper`."""
        found: str = self._database.execute("SELECT text FROM texts WHERE rowid = ?", (name,)).fetchone()[0]
        return found

    def search(self, query: str, k: int) -> list[Any]:
        """See :class:`Keeper`."""
        asked = " OR ".join(f'"{word}"' for word in dict.fromkeys(re.findall(r"\w+", query.casefold())))
        rows = self._database.execute(
            "SELECT rowid FROM texts WHERE texts MATCH ? ORDER BY bm25(texts) LIMIT ?", (asked, k)
        )
        return [row[0] for row in rows]

    def delete(self, name: Any) -> None:
        """See :class:`Keeper`. What it held stays in free pages."""
        self._database.execute("DELETE FROM texts WHERE rowid = ?", (name,))

    def sizes(self) -> dict[str, float]:
        """See :class:`Keeper`."""
        count, size = self._database.execute("SELECT count(*), sum(length(CAST(text AS BLOB))) FROM texts").fetchone()
        files = [self._path.with_name(self._path.name + end) for end in ("", "-wal", "-shm")]
        disk = sum(file.stat().st_size for file in files if file.exists())
        return {"text_bytes_per_entry": round(size / count, 1), "disk_bytes_per_entry": round(disk / count, 1)}

    def close(self) -> None:
        """See :class:`Keeper`."""
        self._database.close()
