"""Damage is found and named, the rest is served; stores of other versions, and memories of other models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from r3mem import FingerprintError, InputError, R3Mem, RecallError
from r3mem.errors import StoreError
from r3mem.store import MemoryStore, migrations
from r3mem.store.database import Database


def flip(store: MemoryStore, id: str, outside: Path | None = None) -> None:
    """Change one byte of an entry's virtual tokens."""
    with store._parts.database.writing() as connection:
        row = connection.execute(
            text("SELECT b.content, b.data, b.place FROM r3mem_blobs b JOIN r3mem_entries e ON e.content = b.content "
                 "WHERE e.id = :id"), {"id": id}
        ).one()  # fmt: skip
        if outside is not None:
            path = outside / row.place
            data = bytearray(path.read_bytes())
        else:
            data = bytearray(row.data)
        data[len(data) // 2] ^= 1
        if outside is not None:
            path.write_bytes(data)
        else:
            connection.execute(
                text("UPDATE r3mem_blobs SET data = :data WHERE content = :n"), {"data": bytes(data), "n": row.content}
            )


@pytest.mark.parametrize("outside", [False, True])
def test_a_damaged_memory_is_named_and_the_others_are_served(
    outside: bool, url: str, tmp_path: Path, opened: Callable[..., MemoryStore]
) -> None:
    folder = tmp_path / "blobs" if outside else None
    store = opened(url, blobs=None if folder is None else folder.as_uri())
    ids = [store.add(f"note {i}", user="ann").id for i in range(4)]
    store.wait(60)
    assert store.check() == []
    flip(store, ids[1], folder)
    if folder is not None:
        next(p for p in folder.rglob("*.safetensors") if _is_of(store, p, ids[2])).unlink()
    broken = {ids[1], ids[2]} if outside else {ids[1]}
    assert {(p.entry, p.user) for p in store.check()} == {(id, "ann") for id in broken}
    for id in ids:
        if id in broken:
            for call in (store.recall, store.memory):
                with pytest.raises(RecallError, match=id):
                    call(id, user="ann")
        else:
            assert store.recall(id, user="ann").startswith("note")
    assert len(store.search("note", user="ann")) == 4 and len(store.list(user="ann")) == 4
    with pytest.raises(RecallError, match=ids[1]):
        store.export(tmp_path / "out.zip", user="ann")
    assert not (tmp_path / "out.zip").exists()
    assert store.delete(ids[1], user="ann") == 1
    assert {p.entry for p in store.check()} == broken - {ids[1]}


def _is_of(store: MemoryStore, path: Path, id: str) -> bool:
    with store._parts.database.reading() as connection:
        place = connection.execute(
            text("SELECT b.place FROM r3mem_blobs b JOIN r3mem_entries e ON e.content = b.content WHERE e.id = :id"),
            {"id": id},
        ).scalar()
    return str(path).endswith(str(place))


def test_a_store_of_a_newer_schema_is_refused(url: str, opened: Callable[..., MemoryStore]) -> None:
    store = opened(url)
    store.add("kept", user="ann")
    with store._parts.database.writing() as connection:
        store._parts.database.say(connection, "schema", "99")
    with pytest.raises(StoreError, match="schema 99, this version knows schemas up to 1"):
        MemoryStore.open(url)
    with store._parts.database.writing() as connection:
        store._parts.database.say(connection, "schema", "1")
    assert opened(url).list(user="ann").total == 1


def test_an_older_store_is_copied_and_migrated(
    url: str, tmp_path: Path, opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(url)
    entry = store.add("from before", user="ann")
    store.close()

    def up(connection: Connection, database: Database) -> None:
        connection.execute(text("ALTER TABLE r3mem_entries ADD COLUMN novelty TEXT"))

    def broken(connection: Connection, database: Database) -> None:
        connection.execute(text("ALTER TABLE r3mem_entries ADD COLUMN other TEXT"))
        raise StoreError("this step fails")

    monkeypatch.setattr(migrations, "STEPS", [*migrations.STEPS, up, broken])
    with pytest.raises(StoreError, match="this step fails"):
        MemoryStore.open(url)
    monkeypatch.setattr(migrations, "STEPS", migrations.STEPS[:1])
    assert opened(url).recall(entry.id, user="ann") == "from before"
    monkeypatch.setattr(migrations, "STEPS", [*migrations.STEPS, up])
    newer = opened(url)
    assert newer.recall(entry.id, user="ann") == "from before" and newer.add("new", user="ann").version == 1
    with newer._parts.database.reading() as connection:
        assert connection.execute(text("SELECT novelty FROM r3mem_entries")).all() == [(None,), (None,)]
    if url.startswith("sqlite"):
        monkeypatch.setattr(migrations, "STEPS", migrations.STEPS[:1])
        assert opened(str(tmp_path / "memory.db.schema1.backup")).recall(entry.id, user="ann") == "from before"


def test_memories_of_another_model(
    url: str, model: R3Mem, other_model: R3Mem, opened: Callable[..., MemoryStore]
) -> None:
    first = opened(url)
    ids = [first.add(f"of the first model {i}", user="ann").id for i in range(3)]
    first.wait(60)
    second = opened(url, model=other_model)
    mine = second.add("of the second", user="ann").id
    second.wait(60)
    assert len(second.stats().models) == 2 and second.stats().models[first.model_name] == 3
    assert second.recall(mine, user="ann") == "of the second" and second.search("first", user="ann")
    with pytest.raises(FingerprintError, match="another backbone"):
        second.recall(ids[0], user="ann")
    assert {p.entry for p in second.check(recall=True)} == set(ids) and second.check() == []
    with pytest.raises(FingerprintError):
        second.reembed(user="ann")
    assert second.reembed(user="bob", old=model) == 0
    assert second.reembed(user="ann", old=model) == 3
    assert [second.recall(id, user="ann") for id in ids] == [f"of the first model {i}" for i in range(3)]
    second.wait(60)
    assert second.stats().models == {second.model_name: 4} and second.check(recall=True) == []
    assert second.reembed(user="ann", old=model) == 0


def test_a_text_that_the_model_is_not_fit_for_is_kept_raw(
    url: str, opened: Callable[..., MemoryStore], model: R3Mem, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(url)
    good, bad = store.add("good", user="ann"), store.add("bad", user="ann")
    tokens = type(model).tokens

    def refuses(self: R3Mem, given: object, *more: object) -> object:
        if given == "bad":
            raise InputError("this tokenizer cannot spell it")
        return tokens(self, given, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(type(model), "tokens", refuses)
    told = store.wait(60)
    assert (told.pending, told.failed) == (0, 1) and told.reasons == {"InputError: this tokenizer cannot spell it": 1}
    assert store.recall(good.id, user="ann") == "good" and store.recall(bad.id, user="ann") == "bad"
    assert store.get(bad.id, user="ann").state == "failed" and store.search("bad", user="ann")
    with pytest.raises(InputError, match="could not be compressed"):
        store.memory(bad.id, user="ann")


def test_a_model_that_is_not_there_costs_nothing_but_compression(tmp_path: Path) -> None:
    with MemoryStore.open(str(tmp_path / "m.db"), model=str(tmp_path / "no-model")) as store:
        entry = store.add("kept all the same", user="ann")
        assert store.search("kept", user="ann")[0].text == "kept all the same"
        with pytest.raises(StoreError, match="cannot be compressed"):
            store.wait(60)
        assert store.recall(entry.id, user="ann") == "kept all the same" and store.stats().pending == 1
