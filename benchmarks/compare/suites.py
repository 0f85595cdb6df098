"""The suites: what is run, with which seeds and budgets."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from benchmarks.compare.synthetic.budget import TaskBudget
from benchmarks.compare.tasks import SYNTHETIC_TASKS, TEXT_TASKS
from benchmarks.compare.text.task import TextBudget
from benchmarks.parts.harness import portable

SUITES = ("smoke", "full", "gpu")
TASKS = (*SYNTHETIC_TASKS, *TEXT_TASKS)
# Of each task unless told otherwise. On a CPU, one of what takes long or moves little: the whole suite is meant to end
# within three hours of two cores.
SEEDS: dict[str, dict[str, tuple[int, ...]]] = {
    "smoke": dict.fromkeys(TASKS, (0,)),
    # Ours and the order of training were chosen on seeds 0 to 9 of associative recall.
    "full": dict.fromkeys(TASKS, (0,)) | {"associative_recall": (10, 11, 12), "associative_recall_8": (10,)},
    "gpu": dict.fromkeys(TASKS, (0, 1, 2)),
}


def budget_of(task: str, args: argparse.Namespace) -> Any:
    """The suite's budget for a task, with what the command line replaces of it."""
    if task not in TEXT_TASKS:
        smoke = args.suite == "smoke"
        return TaskBudget.smoke() if smoke else TaskBudget.full(task)
    budget = getattr(TextBudget, args.suite)(task)
    given = {"texts": args.text and tuple(map(portable, args.text)), "backbone": args.backbone, "dtype": args.dtype}
    return replace(budget, **{key: value for key, value in given.items() if value is not None})
