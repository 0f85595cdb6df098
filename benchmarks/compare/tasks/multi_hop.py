"""Multi-hop: where a chain of links ends."""

from __future__ import annotations

from benchmarks.compare.synthetic.grid import SEGMENT, Grid, at_most_half
from datamodules.synthetic import MultiHop, Task

LINKS = 16


def _multi_hop(hops: int, segments: int, questions: int) -> Task:
    return MultiHop(hops, LINKS // hops, segments, SEGMENT, at_most_half(LINKS // hops, questions))


TASK = Grid("hops", (1, 2, 4), 1, 2, _multi_hop)
