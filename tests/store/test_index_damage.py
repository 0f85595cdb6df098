"""A full-text index that lost words: found, named and mended; searches miss nothing without a word about it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from r3mem.errors import StoreError
from r3mem.store import MemoryStore

WORDS = ["naïve", "dogs", "running", "漢字", "shelves", "of", "42", "\U0001e922"]


def fill(store: MemoryStore, count: int = 30) -> list[str]:
    draw = random.Random(0)
    texts = (f"marker{i} " + " ".join(draw.choices(WORDS, k=20)) for i in range(count))
    return [store.add(each, user="ann" if i % 3 else "bob").id for i, each in enumerate(texts)] + [
        store.add(" ", user="ann").id
    ]


def run(store: MemoryStore, statement: str, **given: object) -> None:
    with store._parts.database.writing() as connection:
        connection.execute(text(statement), given)


def finds(store: MemoryStore, i: int) -> bool:
    return bool(store.search(f"marker{i}", user="ann" if i % 3 else "bob"))


def test_what_is_whole_is_not_named(store: MemoryStore) -> None:
    ids = fill(store)
    store.update(ids[1], "marker1 corrected", user="ann")
    store.delete(ids[2], user="ann")
    assert store.check() == []
    store.wait(60)
    assert store.check(recall=True) == []
    assert store.reindex() == store.stats().contents and store.check() == [] and finds(store, 4)
    assert store.reindex(recall=True) == store.stats().contents and store.check(recall=True) == []
    assert not finds(store, 2) and store.unerased() is None


def test_changed_words_in_the_index_are_found_and_mended(url: str, opened: Callable[..., MemoryStore]) -> None:
    store = opened(url)
    ids = fill(store)
    n = "(SELECT content FROM r3mem_entries WHERE id = :id)"
    if url.startswith("sqlite"):
        # As a flipped bit does it: another letter in a term.
        with store._parts.database.writing() as connection:
            rows = connection.execute(text("SELECT id, block FROM r3mem_words_data")).all()
            id, block = next((row.id, bytes(row.block)) for row in rows if b"marker" in row.block)
            given = {"block": block.replace(b"marker", b"markes", 1), "id": id}
            connection.execute(text("UPDATE r3mem_words_data SET block = :block WHERE id = :id"), given)
        assert not all(finds(store, i) for i in range(30))
    else:
        run(store, f"UPDATE r3mem_contents SET lexemes = 'markes4' WHERE n = {n}", id=ids[4])
    told = store.check()
    assert told and all("reindex" in problem.what for problem in told)
    store.reindex()
    assert store.check() == [] and all(finds(store, i) for i in range(30))


@pytest.mark.parametrize("keep_text", [True, False])
def test_changed_words_beside_a_text_are_found_and_mended(
    keep_text: bool, url: str, opened: Callable[..., MemoryStore]
) -> None:
    store = opened(url, keep_text=keep_text)
    ids = fill(store, 6)
    store.wait(60)
    changed = "UPDATE r3mem_contents SET words = replace(words, 'marker4', 'markes4') WHERE n IN "
    run(store, changed + "(SELECT content FROM r3mem_entries WHERE id = :id)", id=ids[4])
    assert {(problem.entry, problem.user) for problem in store.check()} == {(ids[4], "ann")}
    store.reindex()
    if not keep_text:
        assert not finds(store, 4)
        assert [p.entry for p in store.check()] == [] and [p.entry for p in store.check(recall=True)] == [ids[4]]
        store.reindex(recall=True)
    assert store.check(recall=True) == [] and finds(store, 4)


def test_a_text_that_lost_its_place_in_the_queue(url: str, opened: Callable[..., MemoryStore]) -> None:
    store = opened(url)
    entry = store.add("kept", user="ann")
    run(store, "DELETE FROM r3mem_jobs")
    assert store.wait(60).pending == 1
    (told,) = store.check()
    assert told.entry == entry.id and "is in no queue: reindex() puts it there" in told.what
    store.reindex()
    assert store.check() == [] and store.wait(60).pending == 0 and store.get(entry.id, user="ann").state == "ready"


def test_a_text_whose_row_is_gone(tmp_path: Path, opened: Callable[..., MemoryStore]) -> None:
    path = tmp_path / "memory.db"
    store = opened(str(path))
    ids = fill(store, 3)
    store.close()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DELETE FROM r3mem_contents WHERE n = (SELECT content FROM r3mem_entries WHERE id = ?)", (ids[1],))
    store = opened(str(path))
    told = [problem for problem in store.check() if problem.entry is not None]
    assert [(problem.entry, problem.user) for problem in told] == [(ids[1], "ann")] and "its text is gone" in told[
        0
    ].what


def test_an_index_that_is_gone(url: str, opened: Callable[..., MemoryStore]) -> None:
    store = opened(url)
    fill(store, 4)
    sqlite = url.startswith("sqlite")
    run(store, "DROP TABLE r3mem_words" if sqlite else "DROP INDEX r3mem_contents_lexemes")
    (told,) = store.check()
    assert "the full-text index cannot be read" in told.what and "reindex()" in told.what
    if sqlite:
        for call in (lambda: store.search("marker1", user="ann"), lambda: store.add("new", user="ann")):
            with pytest.raises(StoreError, match=r"full-text index .* is damaged .* reindex\(\)"):
                call()
    again = opened(url)
    assert again.reindex() == 5 and again.check() == [] and finds(again, 1)


@pytest.mark.parametrize(
    "damage", ["UPDATE r3mem_words_config SET v = 5", "UPDATE r3mem_words_data SET block = x'ff' WHERE id = 10"]
)
def test_an_index_that_cannot_be_opened_is_mended(
    damage: str, tmp_path: Path, opened: Callable[..., MemoryStore]
) -> None:
    path = tmp_path / "memory.db"
    store = opened(str(path))
    fill(store, 4)
    store.close()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute(damage)
    store = opened(str(path))
    try:
        assert not finds(store, 1)
    except StoreError as error:
        assert "full-text index" in str(error) and "reindex()" in str(error)
    assert store.check() and all("reindex()" in problem.what for problem in store.check())
    assert store.reindex() == 5 and store.check() == [] and all(finds(store, i) for i in range(4))


def test_words_of_a_text_that_is_gone(tmp_path: Path, opened: Callable[..., MemoryStore]) -> None:
    store = opened(str(tmp_path / "memory.db"))
    fill(store, 3)
    run(store, "INSERT INTO r3mem_words(rowid, sign, words) VALUES (99, 'u1', 'leftoverword')")
    (told,) = store.check()
    assert "holds words of texts that are not kept (1)" in told.what
    store.reindex()
    assert store.check() == []
    store.close()
    assert not any(b"leftoverword" in path.read_bytes() for path in tmp_path.iterdir() if path.is_file())


def test_every_flipped_byte_of_the_index_is_found_or_harmless(
    tmp_path: Path, opened: Callable[..., MemoryStore]
) -> None:
    path = tmp_path / "memory.db"
    store = opened(str(path))
    fill(store, 12)
    store.close()
    draw = random.Random(1)
    with closing(sqlite3.connect(path)) as raw:
        blocks = raw.execute("SELECT id, block FROM r3mem_words_data WHERE length(block)").fetchall()
    hidden = missed = 0
    for _ in range(40):
        id, block = draw.choice(blocks)
        changed = bytearray(block)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        with closing(sqlite3.connect(path)) as raw, raw:
            raw.execute("UPDATE r3mem_words_data SET block = ? WHERE id = ?", (bytes(changed), id))
        with MemoryStore.open(str(path), compress="later") as broken:
            try:
                lost = not all(finds(broken, i) for i in range(12))
            except StoreError:
                lost = True
            hidden += lost
            missed += lost and not broken.check()
        with closing(sqlite3.connect(path)) as raw, raw:
            raw.execute("UPDATE r3mem_words_data SET block = ? WHERE id = ?", (block, id))
    assert hidden > 5 and missed == 0
