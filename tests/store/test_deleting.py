"""Deletion leaves no byte: not of the text, its words, its virtual tokens, its source or its versions, in any file."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from r3mem import R3Mem
from r3mem.errors import NotFound, StoreError
from r3mem.store import MemoryStore, sqlite
from tests.full_disk import filled, full_disk, small_disk

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


def test_a_reader_that_holds_the_files_is_told_and_made_up_for(
    tmp_path: Path, model: R3Mem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "ERASING_PATIENCE", 1.0)
    url = str(tmp_path / "memory.db")
    with MemoryStore.open(url, model=model, compress="later") as store, MemoryStore.open(url, model=model) as other:
        id = secret(store)
        with other._parts.database.reading() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM r3mem_entries").fetchall()
            assert store.delete(id, user="ann") == 1
            told = store.stats()
            assert told.unerased and str(told.unerased_why).startswith("another process holds the files")
            assert other.unerased() == told.unerased_why
        store.add("later", user="ann")
    with MemoryStore.open(url, model=model) as store:
        told = store.stats()
        assert (told.unerased, told.unerased_why, store.unerased()) == (False, None, None)
        assert found_in(tmp_path) == []


def lots_and_a_secret(store: MemoryStore) -> str:
    """Texts of about a megabyte, without compression, and the secret."""
    store.add_pieces((f"{i} " + "long text " * 390 for i in range(250)), user="ann", characters=4_000)
    return secret(store)


def test_a_disk_that_is_really_full_is_the_reason(tmp_path: Path, model: R3Mem) -> None:
    with small_disk(tmp_path / "disk", 8_000_000) as disk:
        url = str(disk / "memory.db")
        with MemoryStore.open(url, model=model, compress="later") as store:
            id = lots_and_a_secret(store)
        with filled(disk, 400_000), MemoryStore.open(url, model=model, compress="later") as store:
            assert store.delete(id, user="ann") == 1
            told = store.stats()
            assert told.unerased and str(told.unerased_why).startswith("the disk is full")
        with MemoryStore.open(url, model=model, compress="later") as store:
            assert store.unerased() is None and found_in(disk) == []
            id = secret(store)
            with filled(disk, 0):
                # Not even the deletion has room, and then nothing is gone.
                with pytest.raises(StoreError, match=r"free some space\. Nothing of this call was kept"):
                    for _ in range(100):
                        store.delete(store.add("x" * 100_000, user="ann").id, user="ann")
            assert store.recall(id, user="ann").startswith(SECRET)


def test_no_room_to_write_the_file_anew_is_told_as_that(tmp_path: Path, opened: Callable[..., MemoryStore]) -> None:
    store = opened(str(tmp_path / "memory.db"))
    id = lots_and_a_secret(store)
    store.close()
    store = opened(str(tmp_path / "memory.db"))
    with full_disk(500_000):
        assert store.delete(id, user="ann") == 1
        assert "the disk is full" in str(store.unerased()) and "held" not in str(store.unerased())
    assert opened(str(tmp_path / "memory.db")).unerased() is None and found_in(tmp_path) == []


def test_postgresql_tells_who_holds_a_table(
    postgresql: str, opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("r3mem.store.postgresql.PATIENCE", 1)
    store, other = opened(postgresql), opened(postgresql)
    id = secret(store)
    with other._parts.database.reading() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM r3mem_versions").fetchall()
        assert store.delete(id, user="ann") == 1
        assert str(other.unerased()).startswith("another process holds the files")
    store.delete(store.add("another", user="ann").id, user="ann")
    assert store.unerased() is None and store.stats().unerased_why is None


def test_files_that_cannot_be_removed_are_told(tmp_path: Path, opened: Callable[..., MemoryStore]) -> None:
    store = opened(str(tmp_path / "memory.db"), blobs=(tmp_path / "blobs").as_uri())
    id = secret(store)
    store.wait(60)
    (file,) = (tmp_path / "blobs").rglob("*.safetensors")
    # A folder where the file was: even root cannot remove that as a file.
    file.unlink()
    file.mkdir()
    assert store.delete(id, user="ann") == 1
    assert str(store.unerased()).startswith("files of virtual tokens (1) cannot be removed")
    file.rmdir()
    store.close()
    assert opened(str(tmp_path / "memory.db")).unerased() is None


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
