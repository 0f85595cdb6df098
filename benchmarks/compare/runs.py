"""Runs of the comparison: each a process of its own that writes one file, whole or not at all."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from r3mem.plain_data.whole_file import replacing

# What a failed process said last.
SAID = 12


@dataclass(frozen=True)
class Run:
    """One task, one method, one seed.

    Attributes:
        folder: Of the suite.
        task: Name of the task.
        method: Name of the method.
        seed: Of everything that is drawn.
        reference: The run that this one starts from or is measured against, made before it; None for none.
    """

    folder: Path
    task: str
    method: str
    seed: int
    reference: Run | None = None

    @property
    def name(self) -> str:
        """How it is told."""
        return f"{self.task}/{self.method}-seed{self.seed}"

    @property
    def path(self) -> Path:
        """The file that it writes."""
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """What it said, kept if it failed."""
        return self.path.with_suffix(".log")

    @property
    def done(self) -> bool:
        """Whether its file is there."""
        return self.path.is_file()


def expected_seconds(run: Run) -> float | None:
    """What a run will take, from finished runs of its task: of its method, else of the others; None before any."""
    files = sorted((run.folder / run.task).glob("*-seed*.json"))
    same = [path for path in files if path.name.startswith(f"{run.method}-seed")]
    seconds = [json.loads(path.read_text(encoding="utf-8"))["cost"].get("wall_seconds") for path in same or files]
    known = [value for value in seconds if value is not None]
    return statistics.median(known) if known else None


def run_all(runs: Sequence[Run], command_of: Callable[[Run], list[str]], jobs: int, console: Console) -> list[Run]:
    """Make all runs that are not there yet, references first; one that fails does not stop the others.

    Args:
        runs: What is wanted; references need not be among them.
        command_of: The process of a run.
        jobs: Processes at a time.
        console: Where progress goes.

    Returns:
        Those that failed, and those whose reference failed.
    """
    references = list(dict.fromkeys(run.reference for run in runs if run.reference is not None))
    first = [run for run in references if not run.done]
    then = [run for run in runs if not run.done and run not in references]
    failed: list[Run] = []
    guard = threading.Lock()
    with Progress(
        TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[now]}"),
        console=console,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=len(first) + len(then), now="")
        now: list[str] = []

        def make(run: Run) -> None:
            with guard:
                now.append(run.name)
                progress.update(task, now=", ".join(now))
            why = _failure(run, command_of(run))
            with guard:
                now.remove(run.name)
                progress.update(task, advance=1, now=", ".join(now))
                if why is None:
                    console.print(f"done: {run.name}", highlight=False)
                else:
                    failed.append(run)
                    console.print(f"[red]failed:[/red] {run.name}", highlight=False)
                    console.print(why, markup=False, highlight=False)

        with ThreadPoolExecutor(max_workers=jobs) as pool:
            # They were submitted before whoever waits for them, so that they have a thread.
            references_made = {run: pool.submit(make, run) for run in first}

            def make_after_reference(run: Run) -> None:
                if run.reference in references_made:
                    references_made[run.reference].result()
                make(run)

            list(pool.map(make_after_reference, then))
    return failed


def _failure(run: Run, command: list[str]) -> str | None:
    """Make a run in a process of its own; None if its file is there in the end, else the end of what it said."""
    if run.reference is not None and not run.reference.done:
        return f"not started: its reference {run.reference.name} failed"
    # A run is to take what it is given, also where the processes that it measures itself against run beside it.
    given = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env={**os.environ, **given, "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    if done.returncode == 0 and run.done:
        run.log.unlink(missing_ok=True)
        return None
    with replacing(run.log) as path:
        path.write_text(done.stdout, encoding="utf-8")
    said = done.stdout.strip().splitlines()[-SAID:]
    return "\n".join([*said, f"exit code {done.returncode}; all of it: {run.log}"])
