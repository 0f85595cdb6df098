"""The verbs, awaited: many at once, and every one is there."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

from r3mem import R3Mem
from r3mem.store import AsyncMemoryStore, MemoryStore


def test_many_at_once(url: str, model: R3Mem) -> None:
    async def work() -> None:
        async with await AsyncMemoryStore.open(url, model=model) as store:
            texts = [f"note {i}" for i in range(12)]
            entries = await asyncio.gather(*(store.add(text, user="ann") for text in texts))
            await store.wait(60)
            recalled = await asyncio.gather(*(store.recall(entry.id, user="ann") for entry in entries))
            assert list(recalled) == texts
            hits = await store.search("note 3", user="ann", k=1)
            assert hits[0].text == "note 3"
            assert await store.delete_all(user="ann") == 12

    asyncio.run(work())


def test_no_verb_is_missing() -> None:
    def verbs(kind: type) -> set[str]:
        return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}

    missing = verbs(MemoryStore) - verbs(AsyncMemoryStore)
    assert missing == set(), missing
    assert Path(inspect.getfile(AsyncMemoryStore)).name == "async_store.py"
