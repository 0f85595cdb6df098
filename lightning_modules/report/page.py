"""The comparison as a table in the terminal and as a page in Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.report.comparison import OURS, Comparison
from lightning_modules.report.runs import Place

if TYPE_CHECKING:
    from rich.table import Table

COSTS = ("train_seconds", "train_tokens_per_second", "evaluation_seconds", "peak_mib", "parameters")
# Figures beside the main one: how many tokens of an answer are right where hardly any answer is right as a whole.
BESIDE = ("free_running_accuracy", "teacher_forced_accuracy")
SOLVED = "steps to solve the easiest level, by seed"
LEFT = ("method", "group")
LEGEND = (
    "Mean ± sample standard deviation over seeds of the mean over all rows of a run; without ± there is one seed. More "
    "is better. missing: no whole run is there. Seeds that are missing are told, and a run that lacks rows counts as "
    "missing where they belong. Bars in the plots reach from the lowest seed to the highest."
)


def headline(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the one table: methods by tasks."""
    tasks = [f"{task} ({comparison.metric[task]})" for task in comparison.tasks]
    rows = []
    for method in comparison.methods:
        scores = [comparison.score(task, method) for task in comparison.tasks]
        seeds = f"{_span(len(s.values) for s in scores)} of {_span(s.expected for s in scores)}"
        rows.append([method, comparison.group[method], *map(str, scores), seeds])
    return ["method", "group", *tasks, "seeds"], rows


def terminal_table(comparison: Comparison) -> Table:
    """The one table, for rich."""
    from rich.table import Table  # Whoever asks for it has a console of rich.

    columns, rows = headline(comparison)
    table = Table(title="Comparison: mean ± standard deviation over seeds", title_justify="left")
    for column in columns:
        left = column in LEFT
        table.add_column(column.replace("_", " "), justify="left" if left else "right", no_wrap=left)
    styles = {"ours": "bold", "control": "dim", "reference": "dim italic"}
    for row in rows:
        table.add_row(*row, style=styles.get(row[1]))
    return table


def notes(comparison: Comparison) -> list[str]:
    """What a reader has to know beside the figures: runs of another commit, start or hardware, what is missing."""
    out = []
    if len(comparison.commits) > 1:
        others = [f"{count} of {commit}" for commit, count in comparison.commits.items() if commit != comparison.commit]
        out.append(
            f"Runs of several commits: {comparison.commits[comparison.commit]} of {comparison.commit}, "
            f"{', '.join(others)}; figures with one of the latter are marked *."
        )
    if any(commit.endswith("-dirty") for commit in comparison.commits):
        out.append("Some code was changed beyond its commit (-dirty): those runs cannot be made again from the commit.")
    if comparison.apart:
        names = sorted(f"{path.parent.name}/{path.stem}" for path in comparison.apart)
        out.append(
            f"Trained from another start than the other runs of their task and seed, marked †: {', '.join(names)}."
        )
    lost = {(r.task, r.seed): r.start_lost for r in comparison.runs.values() if r.start_lost}
    for (task, seed), levels in sorted(lost.items()):
        told = ", ".join(f"{value} ({segments} segments)" for value, segments in levels)
        out.append(f"The start of {task}, seed {seed}, does not solve all with the text in front: not {told}.")
    if len(comparison.hardware) > 1:
        out.append(f"Costs of {len(comparison.hardware)} kinds of hardware stand side by side: do not compare them.")
    absent = comparison.missing()
    if absent:
        out.append(f"Missing ({len(absent)}): {', '.join(absent)}.")
    return out


def page(comparison: Comparison, plots: Sequence[Path]) -> str:
    """The whole page, in Markdown."""
    columns, rows = headline(comparison)
    parts = [
        "# Comparison\n",
        "Written by `r3mem report` from the files of the runs; `docs/compare.md` says what is held equal.\n",
        _markdown(columns, rows),
        LEGEND + "\n",
        *(f"- {note}" for note in notes(comparison)),
        "\n## Where ours loses\n",
        *_losses(comparison),
        *(f"\n![{plot.stem}]({plot.name})" for plot in plots),
    ]
    for task in comparison.tasks:
        parts += _task(comparison, task)
    parts += ["\n## Hardware\n", *(f"- {hardware}" for hardware in comparison.hardware)]
    return "\n".join(parts) + "\n"


def _losses(comparison: Comparison) -> list[str]:
    told = [
        f"- {task}, {where.replace('_', ' ')}: {method} ({comparison.group[method]}) {score}, best of ours {best} {own}"
        for task, where, method, score, best, own in comparison.losses()
    ]
    if not told:
        return [
            "On no task, and at no value of its axes, is the mean of a peer or a control ahead of the best of ours."
        ]
    return ["Of all peers and controls the best, where its mean is ahead of the best of ours:\n", *told]


def _task(comparison: Comparison, task: str) -> list[str]:
    ratios = comparison.along(task, "ratio")
    by_ratio = [
        [method, *(str(comparison.score(task, method, None, places)) for places in ratios.values()),
         *(_memory(comparison, task, method, places) for places in ratios.values()), *_costs(comparison, task, method),
         *_solved(comparison, task, method)]
        for method in comparison.methods
    ]  # fmt: skip
    columns = ["method", *(f"ratio {r}" for r in ratios), *(f"positions / bytes at {r}" for r in ratios), *COSTS]
    columns += [SOLVED] if _held(comparison, task) else []
    parts = [f"\n## {task}\n", f"{comparison.metric[task]} by ratio, and what it cost.\n", _markdown(columns, by_ratio)]
    for figure in BESIDE:
        scores = {m: [comparison.score(task, m, figure, p) for p in ratios.values()] for m in comparison.methods}
        if any(score.values for of_method in scores.values() for score in of_method):
            beside = [[m, *map(str, of_method)] for m, of_method in scores.items()]
            parts += [f"{figure} by ratio.\n", _markdown(columns[: len(ratios) + 1], beside)]
    for axis in [comparison.difficulty(task), "segments"]:
        along = comparison.along(task, axis) if axis else {}
        if len(along) > 1:
            rows = [[m, *(str(comparison.score(task, m, None, p)) for p in along.values())] for m in comparison.methods]
            parts += [f"By {axis}.\n", _markdown(["method", *(f"{value} {axis}" for value in along)], rows)]
    seeds = comparison.seeds[task]
    if len(seeds) > 1:
        each = [[m, *_by_seed(comparison, task, m)] for m in comparison.methods]
        columns = ["method", *(f"seed {seed}" for seed in seeds)]
        parts += ["By seed, the mean over all rows.\n", _markdown(columns, each)]
    parts += _minutes(comparison, task)
    budget = json.dumps(comparison.budget[task], sort_keys=True)
    parts += [*_head_to_head(comparison, task), f"Budget, the same for all: `{budget}`."]
    return parts


def _by_seed(comparison: Comparison, task: str, method: str) -> list[str]:
    found = comparison.by_seed(task, method)
    return [f"{found[seed]:.3f}" if seed in found else "missing" for seed in comparison.seeds[task]]


def _minutes(comparison: Comparison, task: str) -> list[str]:
    """What all runs of each seed took together; nothing where a run does not tell."""
    spent = {seed: 0.0 for seed in comparison.seeds[task]}
    for run in (run for method in comparison.methods for run in comparison.of(task, method)):
        spent[run.seed] += run.cost.get("wall_seconds", math.nan) / 60
    told = ", ".join(f"{minutes:,.1f} (seed {seed})" for seed, minutes in spent.items() if not math.isnan(minutes))
    return [f"Minutes of all runs, as if one followed the other, imports left out: {told}.\n"] if told else []


def _head_to_head(comparison: Comparison, task: str) -> list[str]:
    """Row by row, how often and by how much the best of ours is behind."""
    each, means = comparison.head_to_head(task)
    if not each:
        return []
    behind = [pair for pair in each if pair.behind > 0]
    told = (
        f"Row by row, {comparison.best(task, OURS)}, the best of ours over the whole task, against the best peer or "
        f"control of each row: behind at {len(behind)} of {len(each)}"
    )
    if behind:
        worst = max(behind, key=lambda pair: pair.behind)
        where = ", ".join(f"{axis.replace('_', ' ')} {value}" for axis, value in worst.place)
        told += f", most of all {worst.own:.3f} against {worst.other:.3f} of {worst.best} (seed {worst.seed}, {where})"
    if len(comparison.seeds[task]) > 1:
        told += f"; in the mean over seeds behind at {sum(d.behind > 0 for d in means)} of {len(means)}"
    return [told + ".\n"]


def _memory(comparison: Comparison, task: str, method: str, places: Sequence[Place]) -> str:
    found = [comparison.score(task, method, figure, places).mean for figure in ("positions", "bytes")]
    return " / ".join(_number(value) for value in found)


def _costs(comparison: Comparison, task: str, method: str) -> list[str]:
    return [_number(comparison.cost(task, method, figure)) for figure in COSTS]


def _solved(comparison: Comparison, task: str, method: str) -> list[str]:
    """Steps after which the easiest level was solved, seed by seed; nothing where no method is held there."""
    if not _held(comparison, task):
        return []
    found = [run.cost["solved_after"] for run in comparison.of(task, method) if "solved_after" in run.cost]
    return [" / ".join("never" if steps is None else str(steps) for steps in found)]


def _held(comparison: Comparison, task: str) -> bool:
    return any("solved_after" in run.cost for method in comparison.methods for run in comparison.of(task, method))


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    rule = "|" + "|".join("---" if column in LEFT else "--:" for column in columns) + "|"
    return "\n".join([line(columns), rule, *(line(row) for row in rows)]) + "\n"


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.1f}" if abs(value) < 10 and value != int(value) else f"{value:,.0f}"


def _span(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"
