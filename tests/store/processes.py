"""Processes that work on one store, with the model of the test that forks them, and what they say they have done."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from r3mem import R3Mem
from r3mem.errors import NotFound
from r3mem.store import MemoryStore, compression
from r3mem.store.consolidation import Merge

#: Forked, they have torch and the model at once.
FORK = multiprocessing.get_context("fork")
#: Entries from which on more are deleted than added.
MANY = 60
#: Entries of each kind that are looked for by their words and bytes at each check: the newest.
LOOKED_FOR = 12


def begin(work: Callable[..., None], *given: Any) -> Any:
    """A process that does some work; its exit code says whether it went well."""
    process = FORK.Process(target=_run, args=(work, given))
    process.start()
    return process


def _run(work: Callable[..., None], given: tuple[Any, ...]) -> None:
    # Threads of OpenMP do not survive a fork: a child that asks for several waits for them for ever.
    torch.set_num_threads(1)
    compression.LEASE_SECONDS, compression.RENEWAL_SECONDS = 1.0, 0.3
    code = 1
    try:
        work(*given)
        code = 0
    finally:
        if code:
            import traceback

            traceback.print_exc()
        os._exit(code)


class Diary:
    """What a process is about to do, and what it has done, line by line in a file that outlives it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str, **told: str) -> None:
        os.write(self._file, (json.dumps({"what": what, **told}) + "\n").encode())


def restless(url: str, model: R3Mem, diary: Path, seed: int, options: dict[str, Any]) -> None:
    """Adds, updates, deletes and consolidates until it is killed."""
    draw, told = random.Random(seed), Diary(diary)
    with MemoryStore.open(url, model=model, **options) as store:
        mine = [entry.id for entry in store.list(user="ann", limit=10_000) if entry.level != "consolidated"]
        told.write("ready")
        while True:
            text = f"text {seed} {draw.getrandbits(60):x} " + "lorem ipsum " * draw.randrange(6)
            # It stays of a size at which all of it can be checked after each kill.
            weights = [5, 3, 2, 1] if len(mine) < MANY else [2, 3, 5, 1]
            kind = draw.choices(["add", "update", "delete", "merge"], weights)[0]
            if kind == "add" or not mine:
                told.write("adding", text=text)
                mine.append(store.add(text, user="ann").id)
                told.write("added", id=mine[-1], text=text)
            elif kind == "update":
                id = draw.choice(mine)
                told.write("updating", id=id, text=text)
                store.update(id, text, user="ann")
                told.write("updated", id=id, text=text)
            elif kind == "delete":
                id = mine.pop(draw.randrange(len(mine)))
                told.write("deleting", id=id)
                store.delete(id, user="ann")
                told.write("deleted", id=id)
            else:
                told.write("merging")
                store.consolidate(user="ann", policy=Merge(days=None, keep=4, ratio=8))
                told.write("merged")
                mine = [entry.id for entry in store.list(user="ann", limit=10_000) if entry.level != "consolidated"]


@dataclass
class Expected:
    """What must be in the store, by what the diaries say.

    Attributes:
        texts: By entry the texts that it may have: the last one that was confirmed, or the one that was on its way.
        gone: Entries that may not be there.
        open: Entries that may be gone, or be there.
        adding: Texts that were on their way as new entries.
    """

    texts: dict[str, set[str]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)
    adding: set[str] = field(default_factory=set)

    def read(self, lines: Iterator[dict[str, str]] | list[dict[str, str]]) -> None:
        """Take in what one process said, whose last line may be of something half done."""
        for line in lines:
            what, id, text = line["what"], line.get("id", ""), line.get("text", "")
            if what == "adding":
                self.adding.add(text)
            elif what == "added":
                self.adding.discard(text)
                self.texts[id] = {text}
            elif what == "updating":
                self.texts[id] = self.texts[id] | {text}
            elif what == "updated":
                self.texts[id] = {text}
            elif what == "deleting":
                self.open.add(id)
            elif what == "deleted":
                self.open.discard(id)
                self.gone.add(id)

    def check(self, store: MemoryStore, files: Sequence[Path] = ()) -> None:
        """Nothing confirmed is lost, nothing half is visible, nothing deleted is there.

        Args:
            store: Opened after the process was killed.
            files: Those of the database, if they can be read: no text of a deleted entry is in them.
        """
        found = {entry.id: entry for entry in store.list(user="ann", limit=10_000)}
        assert not self.gone & set(found)
        texts = {id: store.recall(id, user="ann") for id in found}
        wholes = {id for id, entry in found.items() if entry.level == "consolidated" and entry.part_of is None}
        for id, expected in self.texts.items():
            if id in self.gone or (id in self.open and id not in found):
                continue
            assert texts[id] in expected, (id, texts[id], expected)
            assert len(store.history(id, user="ann")) == found[id].version
            # What it is from now on.
            self.texts[id] = {texts[id]}
        for id in set(found) - set(self.texts) - wholes:
            assert texts[id] in self.adding, (id, texts[id])
            self.texts[id] = {texts[id]}
        for id in self.open - set(found):
            self.gone.add(id)
        self.open.clear()
        self.adding.clear()
        for id in self.gone:
            try:
                store.get(id, user="ann")
            except NotFound:
                continue
            raise AssertionError(f"{id} is there again")
        for id in list(found)[-LOOKED_FOR:]:
            if id not in wholes:
                hits = [hit.entry.id for hit in store.search(own_word(texts[id]), user="ann")]
                assert hits == [found[id].part_of or id], (id, texts[id], hits)
        kept = b"".join(file.read_bytes() for file in files if file.exists())
        for id in [id for id in self.texts if id in self.gone][-LOOKED_FOR:]:
            for word in map(own_word, self.texts[id]):
                assert store.search(word, user="ann") == [] and word.encode() not in kept, (id, word)
        assert store.check() == []


def own_word(text: str) -> str:
    """The word that no other text has."""
    return text.split()[2]


def lines_of(diary: Path) -> list[dict[str, str]]:
    """What a process said, and whether it was killed in the middle of a line."""
    return [json.loads(line) for line in diary.read_text().splitlines()] if diary.exists() else []


def wait_for(diary: Path, process: Any, seconds: float = 60) -> None:
    """Until a process says that it is ready."""
    until = time.monotonic() + seconds
    while not any(line["what"] == "ready" for line in lines_of(diary)):
        assert process.is_alive() and time.monotonic() < until, "the process does not begin"
        time.sleep(0.01)
