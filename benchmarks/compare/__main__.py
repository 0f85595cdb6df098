"""Every method through every task, with equal budgets: one run a file, each in a process of its own.

A run whose file is there is not made again, so that a comparison goes on where it was stopped::

    python -m benchmarks.compare --suite smoke --methods edge_pool recurrent_memory --jobs 2
    r3mem report benchmarks/results/compare/smoke
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare.methods import FULL_TEXT, compared, group_of
from benchmarks.compare.runs import Run, expected_seconds, run_all
from benchmarks.compare.suites import SEEDS, SUITES, TASKS, budget_of
from benchmarks.compare.synthetic.run import run_task
from benchmarks.compare.tasks import TEXT_TASKS
from benchmarks.compare.text.run import run_text
from benchmarks.parts.harness import ROOT, console, run, table, write
from r3mem import InputError

BEGAN = time.perf_counter()


def parsed() -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--suite", choices=SUITES, default="smoke",
        help="budgets: smoke shows that all runs, full ranks, gpu trains longer on text",
    )  # fmt: skip
    p.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help=", ".join(TASKS))
    p.add_argument(
        "--methods", nargs="+", default=compared(), metavar="NAME",
        help=f"files of configs/model/, and {FULL_TEXT}; all if left out",
    )  # fmt: skip
    p.add_argument(
        "--seeds", nargs="+", type=int, default=None, metavar="N", help="of all tasks; each has its own if left out"
    )
    p.add_argument("--jobs", type=int, default=1, help="runs at a time, one thread each")
    p.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "compare", help="where files go")
    p.add_argument("--list", action="store_true", help="show what would be run and how long it takes; run nothing")
    p.add_argument("--text", nargs="+", default=None, metavar="PATH", help="of the tasks on text; needed unless smoke")
    p.add_argument("--backbone", default=None, help="of the tasks on text: hub id, folder, .gguf file or wheel:PACKAGE")
    p.add_argument("--dtype", default=None, help="precision of that backbone")
    p.add_argument("--one", nargs=3, default=None, metavar=("TASK", "METHOD", "SEED"), help="make one run, here")
    args = p.parse_args()
    for name in args.methods:
        if group_of(name) is None:
            raise InputError(f"{name} is not compared; its file in configs/model/ says why")
    if args.jobs < 1:
        raise InputError("--jobs must be at least 1")
    return args


def finished(one: Run, args: argparse.Namespace) -> dict[str, Any] | None:
    """What a run has written; None where it is still to be made.

    Raises:
        InputError: It was made with another budget.
    """
    if not one.done:
        return None
    found: dict[str, Any] = json.loads(one.path.read_text(encoding="utf-8"))
    # As it looks in a file, where tuples are lists.
    if found["budget"] != json.loads(json.dumps(asdict(budget_of(one.task, args)))):
        raise InputError(f"{one.path} was made with another budget: remove it, or give another --out")
    return found


def runs_of(args: argparse.Namespace) -> list[Run]:
    """Everything that was asked for, with what has to be made before it."""
    folder = args.out / args.suite
    out = []
    for task in args.tasks:
        known = TEXT_TASKS.get(task)
        for seed in args.seeds or SEEDS[args.suite][task]:
            # On synthetic tasks its start is everyone's: made once, before runs that would all make it at a time.
            needed = known is None or known.needs_reference
            reference = Run(folder, task, FULL_TEXT, seed) if needed else None
            for method in args.methods:
                out.append(Run(folder, task, method, seed, None if method == FULL_TEXT else reference))
    return out


def make(one: Run, args: argparse.Namespace) -> None:
    """Make one run in this process, and write its file.

    Raises:
        InputError: A figure is missing or no number.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    budget = budget_of(one.task, args)
    if one.task in TEXT_TASKS:
        reference = finished(Run(one.folder, one.task, FULL_TEXT, one.seed), args)
        result = run_text(one.task, one.method, one.seed, budget, reference)
    else:
        result = run_task(one.task, one.method, one.seed, budget, one.folder / "starts")
    for row in result["rows"]:
        if result["metric"] not in row:
            raise InputError(f"{one.name}: {result['metric']} is missing in {row}")
    wrong = [place for place, value in _figures(result["rows"], "rows") if not math.isfinite(value)]
    if wrong:
        raise InputError(f"{one.name}: {', '.join(wrong)} is no number; nothing was written")
    result["cost"]["wall_seconds"] = round(time.perf_counter() - BEGAN, 2)
    about = {"task": one.task, "method": one.method, "group": group_of(one.method)}
    more = {key: value for key, value in result.items() if key not in ("rows", "seed")}
    write(one.path, one.seed, result["rows"], **{**about, **more})


def _figures(value: Any, place: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _figures(item, f"{place}.{key}")
    elif isinstance(value, float):
        yield place, value


def tell(runs: list[Run], jobs: int) -> None:
    """Show which runs would be made, and how long they take."""
    rows: list[dict[str, Any]] = []
    total, unknown = 0.0, 0
    for one in runs:
        seconds = None if one.done else expected_seconds(one)
        total, unknown = total + (seconds or 0.0), unknown + (not one.done and seconds is None)
        state = "done" if one.done else "failed before" if one.log.is_file() else "to do"
        rows.append({
            "task": one.task, "method": one.method, "seed": one.seed, "state": state,
            "seconds": None if seconds is None else round(seconds),
        })  # fmt: skip
    table(f"Runs; results are written to {runs[0].folder}", rows, ("method", "task", "seed", "state", "seconds"))
    todo = sum(not one.done for one in runs)
    told = [f"Still to be made: {todo} of {len(runs)} runs."]
    if todo > unknown:
        told.append(f"Time for {todo - unknown} of them: about {math.ceil(total / jobs / 60)} min, with --jobs {jobs}.")
    if unknown:
        told.append(f"Time for {unknown} of them: not known, because no run of their tasks has finished.")
    console.print(" ".join(told), highlight=False, soft_wrap=True)


def main() -> None:
    """Make all runs that were asked for and are not there."""
    args = parsed()
    if args.one is not None:
        task, method, seed = args.one
        make(Run(args.out / args.suite, task, method, int(seed)), args)
        return
    runs = runs_of(args)
    if args.list:
        tell(runs, args.jobs)
        return
    if args.suite != "smoke" and not args.text and any(one.task in TEXT_TASKS for one in runs):
        raise InputError(
            f"--suite {args.suite} has no texts of its own: give --text, such as files of books and papers"
        )
    passed_on = ["--suite", args.suite, "--out", str(args.out)]
    for key in ("text", "backbone", "dtype"):
        value = getattr(args, key)
        if value is not None:
            passed_on += [f"--{key}", *(value if isinstance(value, list) else [value])]

    def command(one: Run) -> list[str]:
        return [sys.executable, "-m", "benchmarks.compare", *passed_on, "--one", one.task, one.method, str(one.seed)]

    there = [one for one in runs if finished(one, args) is not None]
    if there:
        console.print(f"{len(there)} of {len(runs)} runs are there already", highlight=False)
    failed = run_all(runs, command, args.jobs, console)
    if failed:
        raise InputError(f"{len(failed)} runs failed: {', '.join(one.name for one in failed)}")


if __name__ == "__main__":
    run(main)
