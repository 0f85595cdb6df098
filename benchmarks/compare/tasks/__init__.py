"""The tasks of the comparison, one file each; a file's ``TASK`` is listed here under its name."""

from __future__ import annotations

from benchmarks.compare.synthetic.grid import Grid
from benchmarks.compare.tasks import (
    associative_recall,
    associative_recall_8,
    copy,
    multi_hop,
    needle,
    recall,
    retention,
)
from benchmarks.compare.text.task import TextTask

SYNTHETIC_TASKS: dict[str, Grid] = {
    "associative_recall": associative_recall.TASK,
    "associative_recall_8": associative_recall_8.TASK,
    "copy": copy.TASK,
    "needle": needle.TASK,
    "multi_hop": multi_hop.TASK,
}
TEXT_TASKS: dict[str, TextTask] = {
    "retention": retention.TASK,
    "recall": recall.TASK,
}
