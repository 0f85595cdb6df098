"""Needle: the value of the only key of a long history."""

from __future__ import annotations

from benchmarks.compare.synthetic.grid import SEGMENT, Grid
from datamodules.synthetic import Needle, Task


def _needle(tokens: int, segments: int, questions: int) -> Task:
    return Needle(segments, tokens)


TASK = Grid("segment_tokens", (16, 32, 64), 16, SEGMENT, _needle)
