"""Files of runs: one task, one method, one seed each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r3mem.errors import InputError

# In the order of tables and legends. A reference reads the text itself: it has no ratio.
GROUPS = ("ours", "peer", "control", "reference")
DIFFICULTY = ("pairs", "symbols", "segment_tokens", "hops")
# What tells the rows of a run apart; everything else in a row is a figure.
AXES = ("text", *DIFFICULTY, "segments", "ratio")
NEEDED = ("task", "method", "seed", "metric", "budget", "cost", "rows", "commit", "hardware")
Place = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Attributes:
        path: The file.
        task: Name of the task.
        method: Name of the method.
        group: One of ``GROUPS``.
        seed: Of everything that was drawn.
        metric: Name of the main figure of each row; more is better.
        budget: What is equal for all methods.
        cost: ``train_seconds``, ``train_tokens_per_second``, ``parameters``, ``peak_mib`` and so on.
        rows: Figures by their place on the axes.
        commit: Of the code.
        hardware: What it ran on.
        start: What tells apart the weights that it was trained from; None where the file does not say.
        start_lost: Difficulty and number of segments of what these weights do not solve with the text in front.
    """

    path: Path
    task: str
    method: str
    group: str
    seed: int
    metric: str
    budget: dict[str, Any]
    cost: dict[str, Any]
    rows: dict[Place, dict[str, Any]]
    commit: str
    hardware: dict[str, Any]
    start: str | None = None
    start_lost: tuple[tuple[int, int], ...] = ()


def place_of(row: dict[str, Any], without: Iterable[str] = ()) -> Place:
    """Where a row stands: its values on the axes, in the order of ``AXES``."""
    return tuple((axis, row[axis]) for axis in AXES if axis in row and axis not in without)


def read_runs(folder: Path) -> list[Run]:
    """All runs below a folder.

    Raises:
        InputError: There is none, a file is no run, a figure is missing or no number, the runs of a task differ in
            their budgets, or two files are of the same run.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the one that python -m benchmarks.compare wrote")
    # Files that stand directly in the folder are summaries, such as that of the report itself.
    runs = [_read(path) for path in sorted(folder.rglob("*-seed*.json")) if not path.name.startswith(".")]
    if not runs:
        raise InputError(f"{folder}: no runs there (*-seed*.json); make some with python -m benchmarks.compare")
    seen: dict[tuple[str, str, int], Run] = {}
    first: dict[str, Run] = {}
    for run in runs:
        key = (run.task, run.method, run.seed)
        if key in seen:
            raise InputError(
                f"{seen[key].path} and {run.path} are of the same task, method and seed: report each suite by itself"
            )
        seen[key] = run
        one = first.setdefault(run.task, run)
        if (run.metric, run.budget) != (one.metric, one.budget):
            raise InputError(
                f"{run.path} has another budget than {one.path} ({_differences(one, run)}): figures of different "
                "budgets do not belong in one table; report each suite by itself, or run the older files again"
            )
    return runs


def _differences(one: Run, other: Run) -> str:
    keys = sorted(k for k in {*one.budget, *other.budget} if one.budget.get(k) != other.budget.get(k))
    named = [f"{k} {one.budget.get(k)!r} against {other.budget.get(k)!r}" for k in keys]
    return ", ".join(named) or f"metric {one.metric} against {other.metric}"


def _read(path: Path) -> Run:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a run ({error}); remove it and run it again") from error
    lacking = [key for key in NEEDED if key not in content] if isinstance(content, dict) else list(NEEDED)
    if lacking or not content["rows"]:
        raise InputError(f"{path}: not a run, {', '.join(lacking) or 'rows'} missing; remove it and run it again")
    group = content.get("group", "peer")
    if group not in GROUPS:
        raise InputError(f"{path}: group {group!r} is not one of {', '.join(GROUPS)}")
    rows: dict[Place, dict[str, Any]] = {}
    for row in content["rows"]:
        place = place_of(row, ("ratio",) if group == "reference" else ())
        value = row.get(content["metric"])
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{path}: {content['metric']} is {value!r} at {dict(place)}; remove it and run it again")
        if group != "reference" and place in rows:
            raise InputError(f"{path}: two rows at {dict(place)}; what tells them apart has to be one of {AXES}")
        rows[place] = row
    return Run(
        path, content["task"], content["method"], group, content["seed"], content["metric"], content["budget"],
        content["cost"], rows, content["commit"], content["hardware"],
        content.get("start"), tuple(map(tuple, content.get("start_lost", ()))),
    )  # fmt: skip
