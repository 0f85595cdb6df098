"""Associative recall from eight virtual tokens, however many pairs."""

from __future__ import annotations

from benchmarks.compare.synthetic.grid import Grid
from benchmarks.compare.tasks.associative_recall import associative_recall

# GradMem's setting (2603.13875): 96 pairs in 8 vectors, ratio 48, and fewer in as many.
TASK = Grid("pairs", (4, 8, 16, 32, 96), 8, 16, associative_recall, vectors=8)
