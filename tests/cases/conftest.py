"""What a first user does, at a size for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_modules.cli import main
from tests.tiny_run import config, tiny, write_documents

FILES = ("model/virtual_tokens", "data/files", "trainer/cpu")


@pytest.fixture
def arguments(tmp_path: Path, backbone_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``arguments("fit", "a", ...)`` for a command in a folder of that name, without validation."""
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))
    texts = write_documents(tmp_path)

    def make(command: str, name: str, *more: str) -> list[str]:
        return [
            *(command, *config(*FILES), *tiny(backbone_folder, texts, tmp_path / name)),
            *("--model.calibrate=false", *(["--trainer.limit_val_batches=0"] if command == "fit" else []), *more),
        ]

    return make


@pytest.fixture
def run(arguments: Callable[..., list[str]], tmp_path: Path) -> Callable[..., Path]:
    """``run("fit", "a", ...)`` runs a command in this process and gives its folder."""

    def start(command: str, name: str, *more: str) -> Path:
        main(arguments(command, name, *more))
        return tmp_path / name

    return start
