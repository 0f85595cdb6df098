"""Deletion leaves no byte: not of the text, its words, its virtual tokens, its source or its versions, in any file."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from r3mem import R3Mem
from r3mem.errors import NotFound
from r3mem.store import MemoryStore

#: Words that stand nowhere else.
SECRET = "Zanzibarquark xylophonist jubilantly qwertyness"
NEWER = "Vexillologist bumfuzzled cattywampus"


def marks() -> list[bytes]:
    """What must be found nowhere: each word, without and with case, stems too."""
    words = [*SECRET.split(), *NEWER.split(), "secretsource", "secretvalue"]
    return sorted({form.encode() for word in words for form in (word, word.lower(), word.lower()[:9])})


def found_in(folder: Path, skip: str = "\0") -> list[tuple[str, bytes]]:
    """Files under a folder that hold a mark."""
    files = [path for path in folder.rglob("*") if path.is_file() and skip not in str(path)]
    assert files
    return [(str(path), mark) for path in files for mark in marks() if mark in path.read_bytes()]


def fill(store: MemoryStore, seed: int = 0, n: int = 40) -> list[str]:
    """Entries that stay, of many sizes, so that pages are split and moved."""
    draw = random.Random(seed)
    texts = (
        f"note {seed} {i} " + " ".join(f"w{draw.randrange(400)}" for _ in range(draw.randrange(1, 300)))
        for i in range(n)
    )
    return [store.add(text, user="ann").id for text in texts]


def secret(store: MemoryStore, i: int = 0) -> str:
    return store.add(
        f"{SECRET} number {i}. " * (1 + i % 7), user="ann", source="secretsource", metadata={"k": "secretvalue"}
    ).id


@pytest.mark.parametrize("when", ["pending", "ready", "versions", "kept"])
def test_no_byte_is_left_in_sqlite(when: str, tmp_path: Path, opened: Callable[..., MemoryStore]) -> None:
    store = opened(str(tmp_path / "memory.db"), keep_text=when == "kept")
    fill(store, 0)
    ids = [secret(store, i) for i in range(10)]
    if when != "pending":
        fill(store, 1, n=3)
        store.delete_all(user="nobody")
        for id in ids[2:]:
            store.delete(id, user="ann")
        store.wait(600)
    if when == "versions":
        store.update(ids[0], NEWER, user="ann")
        store.wait(60)
        store.update(ids[0], "harmless", user="ann")
    assert found_in(tmp_path)
    left = [entry.id for entry in store.list(user="ann") if entry.source == "secretsource"]
    assert store.delete(left, user="ann") == len(left)
    assert found_in(tmp_path) == []
    assert store.search("zanzibarquark", user="ann") == [] and not store.stats().unerased
    assert store.check() == []
    with pytest.raises(NotFound):
        store.recall(ids[0], user="ann")
    store.close()
    assert found_in(tmp_path) == []


def test_blobs_outside_the_database_go_too(tmp_path: Path, opened: Callable[..., MemoryStore]) -> None:
    store = opened(str(tmp_path / "memory.db"), blobs=(tmp_path / "blobs").as_uri())
    id, kept = secret(store), store.add("kept", user="ann").id
    store.wait(60)
    assert len(list((tmp_path / "blobs").rglob("*.safetensors"))) == 2
    store.delete(id, user="ann")
    assert len(list((tmp_path / "blobs").rglob("*.safetensors"))) == 1 and store.recall(kept, user="ann") == "kept"
    store.close()
    again = opened(str(tmp_path / "memory.db"))
    assert again.recall(kept, user="ann") == "kept"


def test_a_reader_that_holds_the_files_is_told_and_made_up_for(tmp_path: Path, model: R3Mem) -> None:
    url = str(tmp_path / "memory.db")
    with MemoryStore.open(url, model=model, compress="later") as store, MemoryStore.open(url, model=model) as other:
        id = secret(store)
        with other._parts.database.reading() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM r3mem_entries").fetchall()
            assert store.delete(id, user="ann") == 1
            assert store.stats().unerased
        store.add("later", user="ann")
    with MemoryStore.open(url, model=model) as store:
        assert not store.stats().unerased and found_in(tmp_path) == []


def test_no_byte_is_left_in_postgresql(postgresql: str, server: str, opened: Callable[..., MemoryStore]) -> None:
    engine = create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        data = Path(str(connection.execute(text("SHOW data_directory")).scalar()))
    store = opened(postgresql)
    fill(store, 0)
    ids = [secret(store, i) for i in range(5)]
    store.wait(600)
    store.update(ids[0], NEWER, user="ann")
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.exec_driver_sql("CHECKPOINT")
    assert found_in(data)
    assert store.delete(ids, user="ann") == 5 and not store.stats().unerased
    with engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.exec_driver_sql("CHECKPOINT")
    engine.dispose()
    # The server's own log is recycled by the server; docs say so.
    assert found_in(data, skip="/pg_wal/") == []
