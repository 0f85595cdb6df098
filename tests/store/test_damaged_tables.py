"""Tables that are not what they were: told by name, and never made anew over those that are left."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from r3mem import InputError
from r3mem.errors import StoreError
from r3mem.store import MemoryStore


def run(store: MemoryStore, statement: str) -> None:
    with store._parts.database.writing() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE r3mem_meta SET value = 'abc' WHERE name = 'schema'", "says schema 'abc'"),
        ("UPDATE r3mem_meta SET value = '' WHERE name = 'schema'", "says schema ''"),
        ("UPDATE r3mem_meta SET value = '-1' WHERE name = 'schema'", "says schema '-1'"),
        ("UPDATE r3mem_meta SET value = '0' WHERE name = 'schema'", "says schema '0'"),
        ("DELETE FROM r3mem_meta WHERE name = 'schema'", "says schema None"),
        ("DELETE FROM r3mem_meta", "says schema None"),
        ("DELETE FROM r3mem_meta WHERE name = 'blobs'", "does not say where virtual tokens are"),
        ("DROP TABLE r3mem_meta", "no table r3mem_meta beside"),
        ("DROP TABLE r3mem_jobs", "no table r3mem_jobs"),
    ],
)
def test_a_store_that_does_not_know_itself(
    statement: str, why: str, url: str, opened: Callable[..., MemoryStore]
) -> None:
    store = opened(url)
    store.add("kept", user="ann")
    run(store, statement)
    for _ in range(2):
        with pytest.raises(StoreError, match=f"is damaged .*{why}.*take an undamaged copy"):
            MemoryStore.open(url)
    assert store.list(user="ann").total == 1


def test_a_place_of_virtual_tokens_that_was_changed(
    url: str, tmp_path: Path, opened: Callable[..., MemoryStore]
) -> None:
    there, other = (tmp_path / "blobs").as_uri(), (tmp_path / "other").as_uri()
    store = opened(url, blobs=there)
    entry = store.add("kept", user="ann")
    store.wait(60)
    run(store, f"UPDATE r3mem_meta SET value = '{other}' WHERE name = 'blobs'")
    with pytest.raises(StoreError, match="none of the last 1 is there: mount or restore"):
        MemoryStore.open(url)
    with pytest.raises(StoreError, match=r"keeps its virtual tokens in .*other, not in .*blobs"):
        MemoryStore.open(url, blobs=there)
    assert not (tmp_path / "other").exists() or not list((tmp_path / "other").iterdir())
    # Who says it himself goes on with what is left, and check names what is gone.
    again = opened(url, blobs=other)
    assert [p.entry for p in again.check()] == [entry.id]
    run(store, "UPDATE r3mem_meta SET value = '' WHERE name = 'blobs'")
    with pytest.raises(StoreError, match="does not say where virtual tokens are"):
        MemoryStore.open(url)
    run(store, f"UPDATE r3mem_meta SET value = '{there}' WHERE name = 'blobs'")
    assert opened(url).recall(entry.id, user="ann") == "kept"


def test_an_empty_file_is_a_new_store(tmp_path: Path, opened: Callable[..., MemoryStore]) -> None:
    path = tmp_path / "memory.db"
    path.touch()
    store = opened(str(path))
    assert store.recall(store.add("kept", user="ann").id, user="ann") == "kept"


def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("CREATE TABLE moz_places (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"another program \(table 'moz_places'\): give the store a file of its own"):
        MemoryStore.open(str(path))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["places.sqlite"]


def test_tables_of_others_beside_those_of_a_store(postgresql: str, opened: Callable[..., MemoryStore]) -> None:
    run(opened(postgresql), "CREATE TABLE invoices (n int)")
    assert opened(postgresql).list(user="ann").total == 0
