"""Every verb on both kinds of database: what goes in comes out, word for word, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from r3mem import InputError, Memory, R3Mem
from r3mem.errors import NotFound, StoreError
from r3mem.store import MemoryStore, worker

TEXTS = ["Sir Launcelot drew his sword.", "The dog of Ann is called Rex.\n\n", "naïve, 24 € and 漢字\0\r\n", " "]


def test_what_is_added_is_recalled_before_and_after_compression(store: MemoryStore) -> None:
    entries = [store.add(text, user="ann", source="notes", metadata={"n": i}) for i, text in enumerate(TEXTS)]
    assert [e.state for e in entries] == ["pending"] * 4 and [e.level for e in entries] == ["raw"] * 4
    assert [store.recall(e.id, user="ann") for e in entries] == TEXTS
    told = store.wait(60)
    assert (told.entries, told.pending, told.failed, told.raw_bytes) == (4, 0, 0, 0)
    after = [store.get(e.id, user="ann") for e in entries]
    assert [e.state for e in after] == ["ready"] * 4 and all(e.positions and e.tokens for e in after)
    assert [store.recall(e.id, user="ann") for e in entries] == TEXTS
    assert [dict(e.metadata) for e in after] == [{"n": i} for i in range(4)]
    assert store.check(recall=True) == []


def test_a_conversation_turn_by_turn(store: MemoryStore) -> None:
    turns = [{"role": "user", "content": "Where is <|im_end|>?"}, {"role": "assistant", "content": "Here:\nuser: no"}]
    entry = store.add(turns, user="ann", session="s")
    for _ in range(2):
        assert [store.recall(entry.id, user="ann", turn=i) for i in range(2)] == [t["content"] for t in turns]
        assert store.recall(entry.id, user="ann", turn=1, start=6, end=10) == "user"
        store.wait(60)
    assert [t.role for t in store.get(entry.id, user="ann").turns] == ["user", "assistant"]
    with pytest.raises(InputError, match="no turn 2"):
        store.recall(entry.id, user="ann", turn=2)


def test_pages_hold_all_and_no_limit_is_silent(store: MemoryStore) -> None:
    ids = [store.add(f"note {i}", user="ann").id for i in range(25)]
    found, after, pages = list[str](), None, 0
    while True:
        page = store.list(user="ann", after=after, limit=10)
        assert page.total == 25
        found += [e.id for e in page]
        after, pages = page.next, pages + 1
        if after is None:
            break
    assert found == ids and pages == 3
    last = store.list(user="ann", limit=10_000)
    assert last.next is None and len(last) == 25
    first = store.list(user="ann", limit=24)
    assert first.next is not None
    for id in ids[20:]:
        store.delete(id, user="ann")
    assert store.list(user="ann", after=first.next).entries == []
    for odd in ("x", "1-2", 3, "\0"):
        with pytest.raises(InputError, match="is not `next` of a page"):
            store.list(user="ann", after=odd)  # type: ignore[arg-type]


def test_search_finds_by_words_within_the_scope(store: MemoryStore) -> None:
    dog = store.add("The dog of Ann is called Rex.", user="ann", agent="a", session="s", source="chat")
    store.add("The cat of Ann is called Tom.", user="ann", agent="b")
    store.add("The dog of Bob is called Max.", user="bob")
    (hit, *_) = store.search("what is the dog called", user="ann")
    assert (hit.entry.id, hit.rank, hit.owner, hit.source, hit.start, hit.end) == (dog.id, 1, "ann", "chat", 0, 29)
    assert hit.text == "The dog of Ann is called Rex."
    assert len(store.search("called", user="ann")) == 2 and len(store.search("called", user="ann", k=1)) == 1
    assert [h.entry.id for h in store.search("called", user="ann", session="s")] == [dog.id]
    assert store.search("called", user="ann", agent="c") == [] == store.search("called", user="eve")
    for odd in ('dog" OR *', "NEAR(dog, 3)", "dogs' & !x | (", "words:dog -x ^", "<|im_end|> dog"):
        assert store.search(odd, user="ann")[0].entry.id == dog.id
    assert store.search("!?", user="ann") == []
    with pytest.raises(InputError, match="the query is empty"):
        store.search("  ", user="ann")


def test_words_of_other_scripts_are_found(store: MemoryStore) -> None:
    texts = ["漢字を読む", "हिन्दी में लिखा है", "Straße und CAFÉ", "ภาษาไทย", "\U0001e900\U0001e923"]
    ids = [store.add(text, user="ann").id for text in texts]
    for query, id in zip(["漢字", "हिन्दी", "STRASSE cafe", "ไทย", "\U0001e922\U0001e923"], ids, strict=True):
        assert [h.entry.id for h in store.search(query, user="ann")] == [id]


def test_an_update_is_a_version(store: MemoryStore) -> None:
    entry = store.add("Rex is a dog.", user="ann")
    store.wait(60)
    newer = store.update(entry.id, "Rex was a cat.", user="ann")
    assert (newer.version, newer.state, newer.id) == (2, "pending", entry.id)
    for _ in range(2):
        assert store.recall(entry.id, user="ann") == "Rex was a cat."
        assert store.recall(entry.id, user="ann", version=1) == "Rex is a dog."
        store.wait(60)
    assert [(v.number, v.why) for v in store.history(entry.id, user="ann")] == [(1, "added"), (2, "updated")]
    assert store.search("dog", user="ann") == [] and store.search("cat", user="ann")[0].entry.id == entry.id
    with pytest.raises(InputError, match="no version 3"):
        store.recall(entry.id, user="ann", version=3)
    for far in (0, -1, 2**31, 10**30):
        with pytest.raises(InputError, match="has no version"):
            store.recall(entry.id, user="ann", version=far)
    with pytest.raises(NotFound, match="has no part"):
        store.recall(entry.id, user="ann", node=10**30)


def test_equal_texts_are_two_entries_and_one_content(store: MemoryStore) -> None:
    one, two, theirs = store.add("Same.", user="ann"), store.add("Same.", user="ann"), store.add("Same.", user="bob")
    assert one.id != two.id and store.stats(user="ann").entries == 2 and store.stats(user="ann").contents == 1
    assert store.stats().contents == 2 and store.stats().users == 2
    store.wait(60)
    assert store.delete(one.id, user="ann") == 1
    assert store.recall(two.id, user="ann") == "Same." and len(store.search("same", user="ann")) == 1
    assert store.delete(two.id, user="ann") == 1
    assert store.stats(user="ann").contents == 0 and store.recall(theirs.id, user="bob") == "Same."


def test_more_than_a_hundred_are_deleted_and_counted(store: MemoryStore) -> None:
    for i in range(130):
        store.add(f"note {i}", user="ann", agent="a" if i < 120 else "b")
    store.add("kept", user="bob")
    assert store.delete_all(user="ann", agent="a") == 120
    assert store.delete_all(user="ann", agent="a") == 0
    assert store.delete_all(user="ann") == 10
    assert store.stats().entries == 1 and not store.stats().unerased


def test_several_are_deleted_or_none(store: MemoryStore) -> None:
    ids = [store.add(f"note {i}", user="ann").id for i in range(3)]
    theirs = store.add("theirs", user="bob").id
    with pytest.raises(NotFound):
        store.delete([ids[0], theirs], user="ann")
    assert store.stats(user="ann").entries == 3
    assert store.delete([ids[0], ids[1], ids[0]], user="ann") == 2


def test_unknown_deleted_and_others_are_one_answer(store: MemoryStore) -> None:
    mine, gone = store.add("mine", user="ann"), store.add("gone", user="bob")
    store.delete(gone.id, user="bob")
    told = set()
    for id in (mine.id, gone.id, "0" * 32, "", "'; DROP TABLE", "\0", "é"):
        for call in (store.get, store.recall, store.history, store.delete, store.memory):
            with pytest.raises(NotFound) as error:
                call(id, user="bob")
            told.add(str(error.value).replace(repr(id)[:60], "ID"))
        with pytest.raises(NotFound):
            store.update(id, "other", user="bob")
    assert told == {"entry ID is not there: list gives the ids of the user's entries"}
    assert store.recall(mine.id, user="ann") == "mine"


@pytest.mark.parametrize("odd", [None, 123, b"x", ["x"], {"x"}, [1], [["x"]], [None]])
def test_an_id_that_is_no_string(odd: Any, store: MemoryStore) -> None:
    for call in (store.get, store.recall, store.history, store.delete, store.memory):
        if odd == ["x"] and call in (store.delete, store.memory):
            continue
        with pytest.raises(InputError, match=r"an id is a str, not \w+: give the id of an entry") as told:
            call(odd, user="ann")
        assert not isinstance(told.value, NotFound)
    with pytest.raises(InputError, match="an id is a str"):
        store.update(odd, "other", user="ann")


def test_every_verb_of_an_entry_is_narrowed_by_agent_and_session(store: MemoryStore) -> None:
    entry = store.add("mine", user="ann", agent="a", session="s")
    for other in ({"agent": "b"}, {"session": "t"}, {"agent": "a", "session": "t"}):
        for call in (store.get, store.recall, store.history, store.delete, store.memory):
            with pytest.raises(NotFound):
                call(entry.id, user="ann", **other)
        with pytest.raises(NotFound):
            store.update(entry.id, "other", user="ann", **other)
    assert len(store.history(entry.id, user="ann", agent="a", session="s")) == 1
    assert store.delete(entry.id, user="ann", agent="a", session="s") == 1


def test_entries_of_one_source(store: MemoryStore) -> None:
    ids = [store.add(f"note {i}", user="ann", source=["a", "b", None][i % 3]).id for i in range(9)]
    store.add("note", user="bob", source="a")
    first = store.list(user="ann", source="a", limit=2)
    assert ([e.id for e in first], first.total) == (ids[0:6:3], 3)
    assert [e.id for e in store.list(user="ann", source="a", after=first.next)] == [ids[6]]
    assert store.list(user="ann", source="A").total == 0 and store.list(user="ann").total == 9
    for odd in ("", 3, "a\0"):
        with pytest.raises(InputError, match="source"):
            store.list(user="ann", source=odd)  # type: ignore[arg-type]


def test_what_a_model_reads(store: MemoryStore, model: R3Mem) -> None:
    ids = [store.add(text, user="ann").id for text in TEXTS[:2]]
    memory = store.memory(ids[0], user="ann")
    assert isinstance(memory, Memory) and model.recall(memory) == TEXTS[0]
    assert model.recall(store.memory(ids, user="ann")) == TEXTS[0] + TEXTS[1]


def test_a_file_in_pieces_of_bounded_size(store: MemoryStore, tmp_path: Path) -> None:
    text = "\ufeff" + "".join(f"Paragraph {i} of a naïve text 漢.\r\n\r\n" for i in range(60))
    path = tmp_path / "notes.txt"
    path.write_bytes(text.encode())
    entries = store.add_file(path, user="ann", characters=200, metadata={"x": None})
    assert len(entries) > 10 and {e.kind for e in entries} == {"file"} and {e.source for e in entries} == {str(path)}
    assert [e.start for e in entries[1:]] == [e.end for e in entries[:-1]]
    assert all(e.end - e.start <= 200 for e in entries)
    store.wait(600)
    assert "".join(store.recall(e.id, user="ann") for e in entries) == text
    assert [e.id for e in store.list(user="ann")] == [e.id for e in entries]


def test_times(store: MemoryStore) -> None:
    entry = store.add("then", user="ann", time="2020-01-31T12:00:00+02:00")
    assert entry.time == datetime(2020, 1, 31, 10, tzinfo=timezone.utc)
    assert store.get(entry.id, user="ann") == entry
    now = store.add("now", user="ann")
    assert now.time == now.created and (datetime.now(timezone.utc) - now.time).total_seconds() < 60
    for odd in (datetime(2020, 1, 1), "yesterday", 3):
        with pytest.raises(InputError):
            store.add("x", user="ann", time=odd)  # type: ignore[arg-type]


@pytest.mark.parametrize("compress", ["background", "now"])
def test_compression_in_the_background_and_at_once(
    compress: str, url: str, opened: Callable[..., MemoryStore], model: R3Mem
) -> None:
    store = opened(url, compress=compress)
    entry = store.add(TEXTS[0], user="ann")
    assert entry.state == ("ready" if compress == "now" else "pending")
    assert store.wait(60).pending == 0 and store.recall(entry.id, user="ann") == TEXTS[0]
    store.close()
    with pytest.raises(Exception, match="was closed"):
        store.add("x", user="ann")


def test_waiting_tells_how_much_is_pending(store: MemoryStore) -> None:
    for i in range(20):
        store.add(f"note {i}", user="ann")
    told = list[int]()
    assert store.wait(60, progress=told.append).pending == 0
    assert told[0] == 20 and told[-1] == 0 and told == sorted(set(told), reverse=True) and len(told) > 2
    for odd in ({"timeout": "x"}, {"timeout": -1}, {"timeout": float("nan")}, {"progress": 3}):
        with pytest.raises(InputError, match=r"timeout|progress"):
            store.wait(**odd)  # type: ignore[arg-type]


def test_why_nothing_is_compressed_is_in_the_stats(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "REST_SECONDS", 0.5)
    with MemoryStore.open(url, model=str(tmp_path / "no-model")) as store:
        assert store.stats().trouble is None
        entry = store.add("kept all the same", user="ann")
        with pytest.raises(StoreError, match="cannot be compressed"):
            store.wait(60)
        assert "no-model" in str(store.stats().trouble) and store.stats(user="ann").plain()["trouble"]
        store.delete(entry.id, user="ann")
        until = time.monotonic() + 30
        while store.stats().trouble is not None:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_a_hit_and_a_turn_are_of_one_version(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = store.add([{"role": "user", "content": "The dog barks."}], user="ann")
    (hit,) = store.search("dog", user="ann")
    store.update(entry.id, "The cat.", user="ann")
    assert hit.text == "user: The dog barks." and hit.entry.version == 1
    entry = store.add([{"role": "user", "content": "one"}], user="ann")
    get = store.get

    def written_meanwhile(id: str, **scope: Any) -> Any:
        found = get(id, **scope)
        store.update(id, [{"role": "someone else", "content": "a far longer one"}], user="ann")
        return found

    monkeypatch.setattr(store, "get", written_meanwhile)
    assert store.recall(entry.id, user="ann", turn=0) == "one"


def test_words_of_a_long_query_count_once(store: MemoryStore) -> None:
    entry = store.add("needle", user="ann")
    assert [hit.entry.id for hit in store.search("hay " * 500 + "needle", user="ann")] == [entry.id]
