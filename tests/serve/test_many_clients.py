"""Many at once: the same as one after the other; who needs no model does not wait for it; too many are refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from r3mem.serve import Limits
from r3mem.store import MemoryStore
from tests.serve.running import Running

CLIENTS = 20


def test_twenty_clients_at_once_are_as_twenty_one_after_another(server: Running) -> None:
    texts = [f"Note {i}: the dog number {i} barks." for i in range(CLIENTS)]

    def life(i: int) -> tuple[str, str, str, int]:
        with server.client("key-of-ann" if i % 2 else "key-of-bob") as http:
            id = http.post("/v1/memories", json={"text": texts[i], "session": str(i)}).json()["id"]
            server.store.memory(id, user="ann" if i % 2 else "bob")
            text = http.get(f"/v1/memories/{id}/text").json()["text"]
            (hit,) = http.post("/v1/search", json={"query": "dog", "session": str(i)}).json()["hits"]
            new = http.put(f"/v1/memories/{id}", json={"text": texts[i] + " Again."}).json()["version"]
            return text, hit["text"], http.get(f"/v1/memories/{id}/text").json()["text"], new

    with ThreadPoolExecutor(CLIENTS) as pool:
        found = list(pool.map(life, range(CLIENTS)))
    assert found == [(text, text, text + " Again.", 2) for text in texts]
    with server.client() as ann, server.client("key-of-bob") as bob:
        assert ann.get("/v1/stats").json()["entries"] == bob.get("/v1/stats").json()["entries"] == CLIENTS // 2


def test_beyond_the_queue_is_refused_and_the_rest_goes_on(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, go = start(limits=Limits(queue=2), compress="later"), threading.Event()
    with server.client() as http:
        id = http.post("/v1/memories", json={"text": "a dog"}).json()["id"]
        given_back = MemoryStore.recall

        # The real verb, as slow as one of a long text is.
        def slow(self: MemoryStore, *args: object, **kwargs: object) -> str:
            go.wait(60)
            return given_back(self, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr("r3mem.store.async_store.AsyncMemoryStore.recall", _awaited(slow))
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(http.get, f"/v1/memories/{id}/text") for _ in range(3)]
            until = time.monotonic() + 30
            while 'r3mem_calls_waiting{kind="model"} 2.0' not in http.get("/metrics").text:
                assert time.monotonic() < until
            refused = http.get(f"/v1/memories/{id}/text")
            assert refused.status_code == 503 and refused.json()["error"] == "busy"
            assert int(refused.headers["retry-after"]) >= 1 and "try again" in refused.json()["message"]
            # What needs no model is answered meanwhile.
            assert http.get("/health").status_code == 200 and http.get(f"/v1/memories/{id}").status_code == 200
            go.set()
            assert [done.result().json()["text"] for done in waiting] == ["a dog"] * 3
        assert http.get(f"/v1/memories/{id}/text").status_code == 200


def _awaited(verb: Callable[..., str]) -> Callable[..., object]:
    import asyncio

    async def call(self: object, *args: object, **kwargs: object) -> str:
        return await asyncio.to_thread(verb, self.store, *args, **kwargs)  # type: ignore[attr-defined]

    return call
