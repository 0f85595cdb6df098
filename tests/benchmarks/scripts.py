"""Scripts of the benchmarks: each in a process of its own, or here where it refuses what it is given."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """That of a script: one thread, and modules are found from any folder."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def process(script: str, *given: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """A script that has ended, whatever became of it; it computes in float32 on one thread."""
    command = [sys.executable, "-m", f"benchmarks.{script}", "--dtype", "float32", "--threads", "1", *map(str, given)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**environment(), **variables})


def refused(script: str, *given: object) -> str:
    """What a script prints that ends with an error for its user. It runs here: a process takes seconds to begin."""
    from benchmarks.parts.harness import run

    words = [script, "--dtype", "float32", "--threads", "1", *map(str, given)]
    printed, threads = io.StringIO(), torch.get_num_threads()
    try:
        with patch.object(sys, "argv", words), redirect_stdout(printed), pytest.raises(SystemExit) as ended:
            run(importlib.import_module(f"benchmarks.{script}").main)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    assert ended.value.code == 2
    return " ".join(printed.getvalue().split())


def run(script: str, text: Path, backbone: Path, *more: str) -> dict[str, Any]:
    """What a script wrote."""
    result = text.parent / "result.json"
    done = process(script, "--text", text, "--backbone", backbone, "--json", result, *more)
    assert done.returncode == 0, done.stderr[-2000:]
    written: dict[str, Any] = json.loads(result.read_text())
    assert {"command", "commit", "seed", "hardware", "rows"} <= set(written)
    assert written["rows"]
    return written
