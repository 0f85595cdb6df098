"""Several processes and threads on one store: each sees whole entries, and the work is shared."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r3mem import R3Mem
from r3mem.errors import NotFound
from r3mem.store import MemoryStore
from tests.store.processes import begin


def write(url: str, model: R3Mem, name: str, count: int, folder: Path) -> None:
    with MemoryStore.open(url, model=model) as store:
        ids = [store.add(f"{name} writes {i}", user="ann", agent=name).id for i in range(count)]
        for i, id in enumerate(ids):
            if i % 5 == 0:
                store.update(id, f"{name} writes {i} anew", user="ann")
        assert store.delete(ids[-2:], user="ann") == 2
        store.wait(600)
    (folder / name).touch()


def read(url: str, model: R3Mem, names: list[str], folder: Path) -> None:
    with MemoryStore.open(url, model=model, compress="later") as store:
        rounds = 0
        while rounds < 2 or not all((folder / name).exists() for name in names):
            rounds += 1
            for entry in store.list(user="ann", limit=20):
                try:
                    text = store.recall(entry.id, user="ann")
                except NotFound:
                    continue
                assert text.startswith(f"{entry.agent} writes ")
            for hit in store.search("writes anew", user="ann", k=5):
                assert hit.entry.agent in names
            assert store.search("writes", user="bob") == []


def kill(process: Any) -> int | None:
    """The exit code of a process, which is ended if it goes on."""
    process.kill()
    process.join()
    return process.exitcode  # type: ignore[no-any-return]


def at_once(url: str, model: R3Mem, folder: Path, writers: int, readers: int, count: int) -> None:
    names = [f"w{i}" for i in range(writers)]
    processes = [begin(write, url, model, name, count, folder) for name in names]
    processes += [begin(read, url, model, names, folder) for _ in range(readers)]
    for process in processes[:writers]:
        process.join(600)
        # Readers wait for what a writer leaves when it is done; one that fails leaves nothing.
        assert process.exitcode == 0, [kill(other) for other in processes]
    for process in processes[writers:]:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * len(processes)
    with MemoryStore.open(url, model=model, compress="later") as store:
        assert (store.stats().entries, store.stats().pending) == (writers * (count - 2), 0)
        for entry in store.list(user="ann", limit=10_000):
            assert store.recall(entry.id, user="ann").startswith(f"{entry.agent} writes ")
        assert store.check() == []


def test_two_writers_and_readers(url: str, model: R3Mem, tmp_path: Path) -> None:
    at_once(url, model, tmp_path, 2, 2, 12)


@pytest.mark.slow
def test_two_writers_and_ten_readers(url: str, model: R3Mem, tmp_path: Path) -> None:
    at_once(url, model, tmp_path, 2, 10, 100)


def some_work(store: MemoryStore, number: int) -> None:
    """What one of several does: for all users, texts that others add too among them."""
    agent = f"w{number}"
    for i in range(4):
        store.add(f"all say {i} at once", user="ann", agent=agent)
        kept = store.add(f"{agent} tells dogs and cats of the number {i}", user="ann", agent=agent)
        store.update(kept.id, f"{agent} tells cats of the number {i}, corrected", user="ann")
        store.add([{"role": "user", "content": f"hello {i}"}, {"role": "bot", "content": agent}], user=f"u{i % 2}")
    store.add_pieces((f"Paragraph {i} of a report.\n\n" for i in range(30)), user="bob", agent=agent, characters=60)
    gone = [store.add(f"{agent} takes {i} back", user="ann", agent=agent).id for i in range(3)]
    assert store.delete(gone, user="ann") == 3


def work_of(url: str, model: R3Mem, number: int) -> None:
    with MemoryStore.open(url, model=model) as store:
        some_work(store, number)
        store.wait(600)


def told_of(store: MemoryStore) -> dict[str, Any]:
    """All that a store says but names and times, in an order of its own."""
    entries, found = list[Any](), dict[str, Any]()
    for user in ("ann", "bob", "u0", "u1"):
        for entry in store.list(user=user, limit=10_000):
            history = store.history(entry.id, user=user)
            texts = [store.recall(entry.id, user=user, version=version.number) for version in history]
            more = (entry.kind, entry.start, entry.end, entry.state, entry.tokens, entry.positions)
            entries.append((user, str(entry.agent), texts, [version.why for version in history], more))
        for query in ("cats number 3", "all at once", "dogs", "report 7", "hello 1", "takes back"):
            hits = [(round(hit.score, 9), hit.text) for hit in store.search(query, user=user, k=100)]
            found[f"{user}: {query}"] = sorted(hits)
    stats = store.stats()
    counts = (stats.entries, stats.versions, stats.contents, stats.users, stats.tokens, stats.text_bytes)
    return {"entries": sorted(entries), "found": found, "counts": counts, "damage": store.check()}


def test_four_processes_give_the_serial_result(
    url: str, other_url: str, model: R3Mem, opened: Callable[..., MemoryStore]
) -> None:
    processes = [begin(work_of, url, model, number) for number in range(4)]
    serial = opened(other_url)
    for number in range(4):
        some_work(serial, number)
    serial.wait(600)
    for process in processes:
        process.join(600)
    assert [process.exitcode for process in processes] == [0] * 4
    expected = told_of(serial)
    assert len(expected["entries"]) > 100 and expected["damage"] == []
    assert len(expected["found"]["ann: all at once"]) == 16
    assert told_of(opened(url)) == expected


def test_a_new_store_is_made_by_several_at_once(url: str, model: R3Mem) -> None:
    def make(url: str, name: str) -> None:
        with MemoryStore.open(url, compress="later") as store:
            store.add(name, user=name)

    processes = [begin(make, url, f"p{i}") for i in range(4)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    with MemoryStore.open(url, compress="later") as store:
        assert store.stats().users == 4


def test_eight_threads_give_what_one_gives(url: str, opened: Callable[..., MemoryStore]) -> None:
    store = opened(url, compress="background")
    found, wrong = dict[str, str](), list[BaseException]()

    def work(number: int) -> None:
        try:
            for i in range(4):
                text = f"thread {number} says {i}"
                id = store.add(text, user=f"u{number}").id
                found[id] = text
                assert store.recall(id, user=f"u{number}") == text
                assert [h.entry.id for h in store.search(f"says {i}", user=f"u{number}", k=1)] == [id]
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    store.wait(600)
    told: list[Any] = [e for n in range(8) for e in store.list(user=f"u{n}")]
    assert {e.id: store.recall(e.id, user=e.user) for e in told} == found


def test_who_writes_keeps_only_the_same_user_waiting(url: str, opened: Callable[..., MemoryStore]) -> None:
    if url.startswith("sqlite"):
        pytest.skip("on SQLite one writes at a time, whoever it is")
    store, done = opened(url), dict[str, threading.Event]()

    def add(user: str) -> None:
        store.add("kept", user=user)
        done[user].set()

    with store._parts.database.writing("ann"):
        for user in ("ann", "bob"):
            done[user] = threading.Event()
            threading.Thread(target=add, args=(user,)).start()
        assert done["bob"].wait(60)
        assert not done["ann"].wait(0.3)
    assert done["ann"].wait(60)
