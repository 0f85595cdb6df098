"""Associative recall: the value that belongs to a key."""

from __future__ import annotations

from benchmarks.compare.synthetic.grid import Grid, at_most_half
from datamodules.synthetic import AssociativeRecall, Task


def associative_recall(pairs: int, segments: int, questions: int) -> Task:
    """So many pairs, in segments of four tokens a pair."""
    return AssociativeRecall(pairs, segments, 4 * pairs, at_most_half(pairs, questions))


TASK = Grid("pairs", (4, 8, 16, 32, 96), 8, 16, associative_recall)
