"""The tiny model of the store's tests, and servers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from r3mem import Backbone, R3Mem
from tests.serve.running import Running, running
from tests.store.conftest import tiny_store_model


@pytest.fixture(scope="session")
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    return tiny_store_model(tiny_backbone(lora_rank=0))


@pytest.fixture(scope="session")
def model_folder(model: R3Mem, backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model by name, for servers in processes of their own."""
    return backbone_folder


@pytest.fixture
def start(model: R3Mem, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts servers, which end with the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(running(model, tmp_path, **options))


@pytest.fixture
def server(start: Callable[..., Running]) -> Running:
    return start()


@pytest.fixture
def quiet(start: Callable[..., Running]) -> Running:
    """One that compresses when told to."""
    options: dict[str, Any] = {"compress": "later"}
    return start(**options)
