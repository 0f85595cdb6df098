"""A tiny model, and stores of both kinds: SQLite in a folder of the test's, PostgreSQL on a server of the run's own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from benchmarks.parts.postgresql_server import postgresql_server
from r3mem import Backbone, ConfigError, R3Mem
from r3mem.compressors import SelectedKeyValues
from r3mem.hierarchy import Flat
from r3mem.store import MemoryStore

SEGMENT, RATIO = 64, 4


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


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of a server of our own, without a database's name."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgresql_server("fsync=off", "shared_buffers=16MB"))
        except ConfigError as error:
            pytest.skip(str(error))
        yield url


@contextmanager
def new_database(server: str) -> Iterator[str]:
    """URL of an empty database of a server."""
    name = f"t{uuid.uuid4().hex}"
    engine = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield f"{server}/{name}"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


@pytest.fixture
def postgresql(server: str) -> Iterator[str]:
    """URL of an empty database."""
    with new_database(server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty store, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'memory.db'}"
    found: str = request.getfixturevalue("postgresql")
    return found


@pytest.fixture
def other_url(url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of a second empty store of the same kind."""
    if url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'other.db'}"
        return
    with new_database(request.getfixturevalue("server")) as found:
        yield found


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
