"""Processes killed at random moments: what was confirmed is there, what was deleted is gone, nothing is half."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r3mem import R3Mem
from r3mem.store import MemoryStore, compression
from tests.store.processes import Expected, begin, lines_of, restless, wait_for


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(compression, "RENEWAL_SECONDS", 0.3)


def kill_again_and_again(
    url: str, model: R3Mem, folder: Path, kills: int, options: dict[str, Any], seed: int
) -> Counter[str]:
    """Kill a process at random moments, and check the store after each.

    Returns:
        Kills by what the process said that it was at: ``opening``, ``adding``, ``updating``, ``deleting``, ``merging``,
        or ``between`` two of them. Its other thread compresses all the while; ``compressing`` counts the kills that
        left texts uncompressed, whatever else they are.
    """
    draw, expected, counted = random.Random(seed), Expected(), Counter[str]()
    MemoryStore.open(url, model=model, **options).close()
    file = Path(url)
    # PostgreSQL's log keeps what was written until the server recycles it.
    files = [] if "postgresql" in url else [file, *(file.with_name(file.name + end) for end in ("-wal", "-journal"))]
    number = -1
    # On a busy machine few get as far as to a deletion; then there are more of them.
    while number + 1 < kills or (not expected.gone and number < 10 * kills):
        number += 1
        diary = folder / f"diary{number}"
        process = begin(restless, url, model, diary, 1000 * seed + number, options)
        if number % 8 == 7:
            # Also while it opens the store, and repairs what the kill before has left.
            time.sleep(draw.random() * 0.1)
        else:
            wait_for(diary, process)
            time.sleep(draw.random() ** 2 * 1.2)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        lines = lines_of(diary)
        last = lines[-1]["what"] if lines else "opening"
        counted[last if last.endswith("ing") else "between"] += 1
        expected.read(lines)
        with MemoryStore.open(url, model=model, compress="later") as store:
            told = store.stats()
            assert not told.unerased
            counted["compressing"] += told.pending > 0
            expected.check(store, files)
            if number % 5 == 4 or number >= kills - 1:
                store.wait(600)
                expected.check(store, files)
                assert store.check(recall=True) == []
    assert expected.texts and expected.gone
    return counted


@pytest.mark.parametrize("kind", ["sqlite", "blobs", "postgresql"])
def test_kills_lose_nothing(kind: str, tmp_path: Path, model: R3Mem, request: pytest.FixtureRequest) -> None:
    url = str(tmp_path / "memory.db") if kind != "postgresql" else request.getfixturevalue("postgresql")
    options = {"blobs": (tmp_path / "blobs").as_uri()} if kind == "blobs" else {}
    kill_again_and_again(url, model, tmp_path, 4, options, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "kills"), [("sqlite", 200), ("postgresql", 50)])
def test_many_kills_lose_nothing(
    kind: str, kills: int, tmp_path: Path, model: R3Mem, request: pytest.FixtureRequest
) -> None:
    url = str(tmp_path / "memory.db") if kind == "sqlite" else request.getfixturevalue("postgresql")
    counted = kill_again_and_again(url, model, tmp_path, kills, {}, seed=2)
    compressing = counted.pop("compressing")
    print(f"\n{counted.total()} kills on {kind}: {dict(counted)}; {compressing} of them left texts uncompressed")
    assert counted.total() >= kills
    # They hit every kind of work.
    assert {"opening", "adding", "updating", "deleting", "merging"} <= set(counted) and compressing


def test_a_lease_that_ran_out_is_taken_by_another(url: str, opened: Callable[..., MemoryStore]) -> None:
    one, two = opened(url), opened(url)
    entry = one.add("Left behind.", user="ann")
    (job,) = one._compressor._claim(None)
    assert two._compressor.some() == 0 and two.get(entry.id, user="ann").state == "pending"
    time.sleep(1.1)
    assert two._compressor.some() == 1 and two.get(entry.id, user="ann").state == "ready"
    # The first one comes back with what it made: it is not needed any more.
    from r3mem.store.memories import records

    (record,) = records(one.model(), [job.text])
    one._compressor._finish(job, record)
    assert one.recall(entry.id, user="ann") == "Left behind." and one.check(recall=True) == []


def test_a_text_that_is_deleted_while_it_is_compressed(url: str, opened: Callable[..., MemoryStore]) -> None:
    from r3mem.store.memories import records

    store = opened(url)
    entry = store.add("Soon gone.", user="ann")
    (job,) = store._compressor._claim(None)
    (record,) = records(store.model(), [job.text])
    store.delete(entry.id, user="ann")
    store._compressor._finish(job, record)
    assert store.stats().blob_bytes == 0 and store.stats().contents == 0
