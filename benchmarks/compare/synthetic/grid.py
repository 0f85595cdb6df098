"""A synthetic task's grid: how hard it gets, what methods train on and where they are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from datamodules.synthetic import Task

SEGMENT = 64


@dataclass(frozen=True)
class Point:
    """One place of a task's grid.

    Attributes:
        value: On the task's axis.
        segments: Segments of the history.
        ratio: Text tokens per virtual token.
    """

    value: int
    segments: int
    ratio: int


@dataclass(frozen=True)
class Grid:
    """A task and its axis of difficulty.

    Attributes:
        axis: What ``Point.value`` is called in rows.
        values: Easiest first.
        first: Value at which training begins: of fewer pairs one learns to guess before one looks up.
        streamed: Value at which the number of segments varies.
        build: Value, segments and questions to a task.
        vectors: Virtual tokens of a history, whatever its length, so that the ratio grows with it; None leaves the
            ratio to the budget.
    """

    axis: str
    values: tuple[int, ...]
    first: int
    streamed: int
    build: Callable[[int, int, int], Task]
    vectors: int | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest segment."""
        return max(self.build(value, 1, 1).segment_tokens for value in self.values)

    def ratios(self, value: int, of: tuple[int, ...]) -> tuple[int, ...]:
        """Ratios at which a value is trained and measured, of those that the budget has."""
        tokens = self.build(value, 1, 1).segment_tokens
        return tuple(r for r in of if r <= tokens) if self.vectors is None else (tokens // self.vectors,)

    def smallest(self, of: tuple[int, ...]) -> int:
        """The smallest ratio anywhere."""
        return min(ratio for value in self.values for ratio in self.ratios(value, of))

    def points(self, ratios: tuple[int, ...], segments: tuple[int, ...], ends: tuple[int, ...]) -> list[Point]:
        """All that is measured.

        Args:
            ratios: Asked for at one segment.
            segments: Histories longer than that, at ``streamed``; none where the number of virtual tokens is fixed.
            ends: Ratios asked for there.
        """
        points = [Point(v, 1, r) for v in self.values for r in self.ratios(v, ratios)]
        return points + [Point(self.streamed, s, r) for s in segments for r in ends if self.vectors is None]


def at_most_half(of: int, questions: int) -> int:
    """At most half: where all are asked for, the last answers are found by leaving out those before."""
    return min(max(1, of // 2), questions)
