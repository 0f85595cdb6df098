"""The memory commands as a user gives them, in this process or as one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import r3mem
from lightning_modules.command import main

ROOT = Path(r3mem.__file__).parent.parent


@dataclass(frozen=True)
class Answer:
    """What a command said, and the code with which it ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone_folder: Path) -> Path:
    """An empty working folder; the store lies in it, the user is ann, the model is the tiny one."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, value in {"STORE": str(folder / "memory.db"), "USER": "ann", "MODEL": str(backbone_folder)}.items():
        monkeypatch.setenv(f"R3MEM_{name}", value)
    return folder


@pytest.fixture
def r3(place: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process."""

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        code = 0
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return run


@pytest.fixture
def shell(place: Path) -> Command:
    """Runs a command as a process of its own; ``given`` goes to its standard input."""

    def run(*arguments: str, given: bytes = b"") -> Answer:
        code = "import sys; from lightning_modules.command import main; main(sys.argv[1:])"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *arguments], input=given, capture_output=True, timeout=120,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
