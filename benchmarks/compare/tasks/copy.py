"""Copy: the symbols of the history, in order."""

from __future__ import annotations

from benchmarks.compare.synthetic.grid import Grid
from datamodules.synthetic import Copy, Task


def _copy(symbols: int, segments: int, questions: int) -> Task:
    return Copy(symbols, segments, symbols)


TASK = Grid("symbols", (8, 16, 32), 8, 16, _copy)
