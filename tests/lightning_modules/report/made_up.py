"""Files of runs that nobody made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HARDWARE = {"cpu": "a machine", "cores": 2, "threads": 1, "gpu": None}


def write_run(
    folder: Path, task: str, method: str, seed: int, values: dict[tuple[int, int], float], **more: Any
) -> Path:
    """A run whose rows are ``{(pairs, ratio): exact match}``; ``more`` replaces fields of the file."""
    rows = [
        {"pairs": pairs, "ratio": ratio, "segments": 1, "positions": 64 // ratio, "bytes": 128 // ratio,
         "exact_match": value}
        for (pairs, ratio), value in values.items()
    ]  # fmt: skip
    content = {
        "command": "python -m benchmarks.compare", "commit": "abc", "seed": seed, "hardware": HARDWARE,
        "date": "2026-01-01", "task": task, "method": method, "group": "peer", "metric": "exact_match",
        "budget": {"steps": 10, "lr": 0.001}, "cost": {"train_seconds": 2.0, "train_tokens_per_second": 500.0},
        "rows": rows, **more,
    }  # fmt: skip
    path = folder / task / f"{method}-seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
