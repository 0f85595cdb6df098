"""What was found in a paragraph, kept on disk so that it is read only once."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from r3mem.errors import ConfigError
from r3mem.errors.caller_warnings import warn_caller
from r3mem.plain_data.cache import cache_folder

# SQLite takes no more placeholders than this in one statement, whatever it was built with.
KEYS_AT_ONCE = 900
# Other processes may be writing; each of their transactions takes milliseconds.
WAIT_SECONDS = 60.0
TABLE = "annotations_with_digests"


class AnnotationCache:
    """Results by text, in one SQLite file for all models.

    Each result has a digest of its text and itself: one that is damaged is told, and made anew. Results of earlier
    versions had none and are not seen.

    Every call opens the file anew: a connection must not live on in a forked process. What is written appears in one
    transaction, so that an interruption leaves the file as it was.

    Args:
        identity: What made the results: name and version. Results of another are not seen.
    """

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.path = cache_folder("entities") / "annotations.sqlite"

    def get(self, texts: Iterable[str]) -> dict[str, Any]:
        """What is known of some texts, as it was put.

        Args:
            texts: The texts.

        Raises:
            ConfigError: The file cannot be read.
        """
        by_key = {self._key(text): text for text in texts}
        keys, known = list(by_key), {}
        with self._opened() as database:
            for i in range(0, len(keys), KEYS_AT_ONCE):
                some = keys[i : i + KEYS_AT_ONCE]
                marks = ",".join("?" * len(some))
                for key, found, told in database.execute(
                    f"SELECT key, found, digest FROM {TABLE} WHERE key IN ({marks})", some
                ):
                    if isinstance(found, str) and told == _digest(key, found):
                        known[by_key[key]] = json.loads(found)
                    else:
                        warn_caller(f"{self.path}: a damaged result is made anew; is the disk sound?")
        return known

    def put(self, found: Mapping[str, Any]) -> None:
        """Keep results.

        Args:
            found: What was found, as plain data, by text.

        Raises:
            ConfigError: The file cannot be written.
        """
        texts = {self._key(text): json.dumps(value, separators=(",", ":")) for text, value in found.items()}
        rows = [(key, text, _digest(key, text)) for key, text in texts.items()]
        with self._opened() as database, database:
            # What is put was not found, or damaged.
            database.executemany(f"INSERT OR REPLACE INTO {TABLE} VALUES (?, ?, ?)", rows)

    def _key(self, text: str) -> bytes:
        head = self.identity.encode()
        return hashlib.blake2b(
            len(head).to_bytes(4, "big") + head + text.encode(errors="surrogatepass"), digest_size=16
        ).digest()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS)) as database:
                database.execute(
                    f"CREATE TABLE IF NOT EXISTS {TABLE} "
                    "(key BLOB PRIMARY KEY, found TEXT NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID"
                )
                yield database
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self.path}: entities cannot be kept there ({error}). Delete the file if it is damaged, set "
                "R3MEM_CACHE to a folder that can be written, or pass EntityFinder(cache=False)"
            ) from error


def _digest(key: bytes, found: str) -> bytes:
    return hashlib.blake2b(key + found.encode(errors="surrogatepass"), digest_size=8).digest()
