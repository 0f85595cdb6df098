"""A tiny model, and stores of both kinds: SQLite in a folder of the test's, PostgreSQL on a server of the run's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from r3mem import Backbone, R3Mem
from r3mem.compressors import SelectedKeyValues
from r3mem.hierarchy import Flat
from r3mem.store import MemoryStore

SEGMENT, RATIO = 16, 4


def tiny_store_model(backbone: Backbone) -> R3Mem:
    """A model of the default kind around a tiny backbone."""
    return R3Mem(backbone, SelectedKeyValues(backbone.width, RATIO), hierarchy=Flat(SEGMENT)).eval()


@pytest.fixture(scope="session")
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    return tiny_store_model(tiny_backbone(lora_rank=0))


@pytest.fixture(scope="session")
def other_model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    """One that cannot recall what the first one made."""
    return tiny_store_model(tiny_backbone(seed=1, lora_rank=0))


def _binary(name: str) -> str | None:
    # Debian has them in a folder of their version, on no path.
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a server of our own, without a database's name; it runs as another user where we are root."""
    initdb, postgres = _binary("initdb"), _binary("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    become: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="r3mem-pg-", dir="/tmp"))
    if os.getuid() == 0:
        become = ["runuser", "-u", "nobody", "--"]
        shutil.chown(folder, "nobody")
    data = folder / "data"
    made = subprocess.run(
        [*become, initdb, "-D", str(data), "-U", "r3mem", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        capture_output=True, text=True, cwd="/tmp",
    )  # fmt: skip
    if made.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL cannot be set up here: {made.stderr.strip()[-200:]}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [*become, postgres, "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", str(folder),
         "-c", "fsync=off", "-c", "shared_buffers=16MB"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp",
    )  # fmt: skip
    url = f"postgresql+psycopg://r3mem@127.0.0.1:{port}"
    try:
        _wait_for(url, server)
        yield url
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    import time

    engine = create_engine(f"{url}/postgres")
    for _ in range(200):
        assert server.poll() is None, "the server ended"
        try:
            with engine.connect():
                engine.dispose()
                return
        except Exception:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


@pytest.fixture
def postgresql(postgresql_server: str) -> Iterator[str]:
    """URL of an empty database."""
    name = f"t{uuid.uuid4().hex}"
    engine = create_engine(f"{postgresql_server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield f"{postgresql_server}/{name}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty store, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'memory.db'}"
    found: str = request.getfixturevalue("postgresql")
    return found


@pytest.fixture
def opened(model: R3Mem) -> Iterator[Callable[..., MemoryStore]]:
    """Opens stores with the tiny model, compressing when asked to, and closes them."""
    stores = list[MemoryStore]()

    def make(url: str, **options: Any) -> MemoryStore:
        stores.append(MemoryStore.open(url, **{"model": model, "compress": "later", **options}))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(url: str, opened: Callable[..., MemoryStore]) -> MemoryStore:
    return opened(url)
