"""Runs side by side: means and spreads over seeds, and what is missing."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_modules.report.runs import DIFFICULTY, GROUPS, Place, Run

# Groups that are held against each other.
OURS, OTHERS = ("ours",), ("peer", "control")


@dataclass(frozen=True)
class Score:
    """A figure over seeds.

    Attributes:
        values: One for each seed that was run in full.
        expected: Seeds that some method was run with on this task.
        mixed: Whether some of it was run with another commit than most of the comparison.
        apart: Whether some of it was trained from another start than most of its task and seed.
    """

    values: tuple[float, ...]
    expected: int
    mixed: bool = False
    apart: bool = False

    @property
    def mean(self) -> float:
        """Mean over seeds; NaN of none."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        if not self.values:
            return "missing"
        shown = f"{self.mean:.3f}" + (f" ± {self.spread:.3f}" if self.spread is not None else "")
        lacking = f" ({len(self.values)} of {self.expected} seeds)" if len(self.values) < self.expected else ""
        return f"{shown}{lacking}{'*' if self.mixed else ''}{'†' if self.apart else ''}"


@dataclass(frozen=True)
class HeadToHead:
    """One of ours against the best peer or control at one row.

    Attributes:
        place: The row's place on the axes.
        seed: None if the figures are means over seeds.
        own: Figure of ours.
        best: The best peer or control there.
        other: Its figure.
    """

    place: Place
    seed: int | None
    own: float
    best: str
    other: float

    @property
    def behind(self) -> float:
        """By how much ours is behind; negative if it is ahead."""
        return self.other - self.own


class Comparison:
    """All runs of a suite.

    What is expected is what is there for any method: a seed of a task that one method was run with is missing where
    another method was not, and a row that one run has is missing where another has not.

    Args:
        runs: As `read_runs` gives them.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = {(run.task, run.method, run.seed): run for run in runs}
        self.tasks = sorted({run.task for run in runs})
        self.group = {run.method: run.group for run in runs}
        self.methods = sorted(self.group, key=lambda method: (GROUPS.index(self.group[method]), method))
        self.metric = {run.task: run.metric for run in runs}
        self.budget = {run.task: run.budget for run in runs}
        self.seeds = {task: sorted({r.seed for r in runs if r.task == task}) for task in self.tasks}
        self.commits = Counter(run.commit for run in runs)
        self.commit = self.commits.most_common(1)[0][0]
        self.apart = {run.path for task in self.tasks for seed in self.seeds[task] for run in _apart(runs, task, seed)}
        self.hardware = sorted({", ".join(f"{k} {v}" for k, v in r.hardware.items() if v is not None) for r in runs})
        self.places = {
            task: sorted({p for r in runs if r.task == task and r.group != "reference" for p in r.rows}, key=str)
            or sorted({p for r in runs if r.task == task for p in r.rows}, key=str)
            for task in self.tasks
        }

    def of(self, task: str, method: str) -> list[Run]:
        """The runs of a method on a task, by seed."""
        return [self.runs[key] for seed in self.seeds[task] if (key := (task, method, seed)) in self.runs]

    def axis(self, task: str, name: str) -> list[Any]:
        """The values of an axis in a task, in order; empty where it has no such axis."""
        return sorted({value for place in self.places[task] for axis, value in place if axis == name})

    def difficulty(self, task: str) -> str | None:
        """The axis on which a task gets harder, besides history and ratio."""
        return next((name for name in DIFFICULTY if len(self.along(task, name)) > 1), None)

    def along(self, task: str, axis: str) -> dict[Any, list[Place]]:
        """The places at each value of an axis, like with like: where all else is equal, all values are there.

        Histories of many segments, for example, are measured at one difficulty; along the difficulty they are left out.
        """
        values = self.axis(task, axis)
        others = {
            value: {tuple(item for item in place if item[0] != axis): place
                    for place in self.places[task] if (axis, value) in place}
            for value in values
        }  # fmt: skip
        shared = set.intersection(*map(set, others.values())) if others else set()
        return {value: [others[value][rest] for rest in sorted(shared, key=str)] for value in values if shared}

    def score(self, task: str, method: str, figure: str | None = None, places: Sequence[Place] | None = None) -> Score:
        """A figure of a method over seeds: of each seed, the mean over rows of the task.

        Args:
            task: One of ``tasks``.
            method: One of ``methods``.
            figure: Name of a figure of the rows; the task's metric if None.
            places: Of the rows; all of the task if None.
        """
        found = self.by_seed(task, method, figure, places)
        runs = [run for run in self.of(task, method) if run.seed in found]
        mixed, apart = any(run.commit != self.commit for run in runs), any(run.path in self.apart for run in runs)
        return Score(tuple(found.values()), len(self.seeds[task]), mixed, apart)

    def by_seed(
        self, task: str, method: str, figure: str | None = None, places: Sequence[Place] | None = None
    ) -> dict[int, float]:
        """What `score` is the mean of: the mean over rows of every seed that has all of them."""
        wanted, out = self.places[task] if places is None else places, {}
        for run in self.of(task, method):
            rows = [_row(run, place) for place in wanted]
            found = [row.get(figure or run.metric) for row in rows if row is not None]
            numbers = [float(value) for value in found if isinstance(value, int | float)]
            if numbers and len(numbers) == len(wanted):
                out[run.seed] = statistics.fmean(numbers)
        return out

    def cost(self, task: str, method: str, figure: str) -> float:
        """Mean of a cost over seeds; NaN where it is not known."""
        found = [run.cost.get(figure) for run in self.of(task, method)]
        known = [float(value) for value in found if isinstance(value, int | float)]
        return statistics.fmean(known) if known else math.nan

    def missing(self) -> list[str]:
        """Runs that are not there, and runs that lack rows."""
        out = []
        for task in self.tasks:
            for method in self.methods:
                for seed in self.seeds[task]:
                    run = self.runs.get((task, method, seed))
                    name = f"{task}/{method}-seed{seed}"
                    lacking = [] if run is None else [p for p in self.places[task] if _row(run, p) is None]
                    if run is None:
                        out.append(name)
                    elif lacking:
                        out.append(f"{name}: {len(lacking)} of {len(self.places[task])} rows")
        return out

    def losses(self) -> list[tuple[str, str, str, Score, str, Score]]:
        """Where ours loses: over all of a task, and at each value of each of its axes.

        Returns:
            ``(task, where, method, its score, best of ours, its score)`` of the best peer or control that is ahead.
        """
        out = []
        for task in self.tasks:
            parts: dict[str, list[Place] | None] = {"all": None}
            for axis in filter(None, ("ratio", self.difficulty(task), "segments")):
                along = self.along(task, axis)
                parts |= {f"{axis} {value}": places for value, places in along.items() if len(along) > 1}
            for where, places in parts.items():
                ours, other = self.best(task, OURS, places), self.best(task, OTHERS, places)
                if ours and other:
                    own, score = self.score(task, ours, None, places), self.score(task, other, None, places)
                    if score.mean > own.mean:
                        out.append((task, where, other, score, ours, own))
        return out

    def best(self, task: str, groups: Sequence[str], places: Sequence[Place] | None = None) -> str | None:
        """The method of some groups whose mean is best, over a task or over rows of it; None if no run is whole."""
        means = {m: self.score(task, m, None, places).mean for m in self.methods if self.group[m] in groups}
        return max((m for m in means if not math.isnan(means[m])), key=means.__getitem__, default=None)

    def head_to_head(self, task: str) -> tuple[list[HeadToHead], list[HeadToHead]]:
        """The best of ours over the task against the best peer or control of each row: every seed, and their mean.

        Rows and seeds are left out where ours, or all of the others, have no figure.
        """
        ours = self.best(task, OURS)
        if ours is None:
            return [], []
        others = [m for m in self.methods if self.group[m] in OTHERS]
        each, means = list[HeadToHead](), list[HeadToHead]()
        for place in self.places[task]:
            found = {m: self.by_seed(task, m, None, [place]) for m in (ours, *others)}
            own = found.pop(ours)
            for seed, value in own.items():
                rivals = {m: values[seed] for m, values in found.items() if seed in values}
                each += _pair(place, seed, value, rivals)
            whole = {m: statistics.fmean(values.values()) for m, values in found.items() if values.keys() == own.keys()}
            means += _pair(place, None, statistics.fmean(own.values()), whole) if own else []
        return each, means


def _pair(place: Place, seed: int | None, own: float, rivals: dict[str, float]) -> list[HeadToHead]:
    """At most one; none where there is no rival."""
    best = max(rivals, key=rivals.__getitem__, default=None)
    return [HeadToHead(place, seed, own, best, rivals[best])] if best else []


def _apart(runs: Sequence[Run], task: str, seed: int) -> list[Run]:
    """Runs from another start than most."""
    same = [run for run in runs if (run.task, run.seed) == (task, seed) and run.start is not None]
    usual = Counter(run.start for run in same).most_common(1)
    return [run for run in same if run.start != usual[0][0]]


def _row(run: Run, place: Place) -> dict[str, Any] | None:
    if run.group == "reference":
        place = tuple((axis, value) for axis, value in place if axis != "ratio")
    return run.rows.get(place)
