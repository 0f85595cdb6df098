"""Scripts of the benchmarks, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """That of a script: one thread, and modules are found from any folder."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def process(script: str, *given: object, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """A script that has ended, whatever became of it; it computes in float32 on one thread."""
    command = [sys.executable, "-m", f"benchmarks.{script}", "--dtype", "float32", "--threads", "1", *map(str, given)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**environment(), **variables})


def run(script: str, text: Path, backbone: Path, *more: str, fails: bool = False) -> dict[str, Any]:
    """What a script wrote; where it ``fails``, what it printed."""
    result = text.parent / "result.json"
    done = process(script, "--text", text, "--backbone", backbone, "--json", result, *more)
    if fails:
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return {"printed": " ".join(done.stdout.split())}
    assert done.returncode == 0, done.stderr[-2000:]
    written: dict[str, Any] = json.loads(result.read_text())
    assert {"command", "commit", "seed", "hardware", "rows"} <= set(written)
    assert written["rows"]
    return written
