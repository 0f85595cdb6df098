"""A real server on a free port, in a thread of the test's process, and clients of it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from r3mem import R3Mem
from r3mem.serve import KeyRing, Keys, Limits, make_app
from r3mem.serve.app import served_by
from r3mem.store import MemoryStore

#: Keys of the tests, which are not secret, and whose they are.
USERS = {
    "key-of-ann": "ann",
    "key-of-bob": "bob",
    "key-of-ann-10": "ann1",
    "key-of-dots": "../ann",
    "key-of-ANN": "ANN",
}


def lines(users: dict[str, str]) -> str:
    """Keys as a file of keys has them."""
    return "".join(f"sha256:{hashlib.sha256(key.encode()).hexdigest()} {user}\n" for key, user in users.items())


@dataclass
class Running:
    """A server that runs.

    Attributes:
        url: Where.
        app: Its application.
        server: What runs it.
    """

    url: str
    app: FastAPI
    server: uvicorn.Server

    def client(self, key: str | None = "key-of-ann", **options: Any) -> httpx.Client:
        """A client with a key."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    @property
    def store(self) -> MemoryStore:
        """The store that it serves."""
        return served_by(self.app).store.store


@contextmanager
def running(
    model: R3Mem, folder: Path, *, keys: Keys | None = None, limits: Limits | None = None, **options: Any
) -> Iterator[Running]:
    """Serve a store in a folder until the block ends."""
    url = f"sqlite:///{folder / 'memory.db'}"
    app = make_app(
        lambda: MemoryStore.open(url, model=model, **options), keys or KeyRing(lines(USERS), "the test"), limits
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False, timeout_keep_alive=75))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < until, "the server does not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", app, server)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive(), "the server does not end"
