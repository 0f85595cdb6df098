"""Plots of a comparison, legible with fifteen methods: ours thick, peers thin, controls grey, one legend outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_modules.report.comparison import Comparison, Score
from r3mem.errors.extras import importing

OURS = ("#c1121f", "#f77f00", "#7b2cbf", "#d81159")
PEERS = ("#0077b6", "#2a9d8f", "#6a994e", "#3a0ca3", "#b08968", "#118ab2", "#5f0f40", "#8d99ae", "#40916c", "#577590")
MARKERS = "osD^v<>pPX*hd8"
DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)))
PANELS_A_ROW = 3
Drawn = Callable[[Any, str, dict[str, dict[str, Any]]], None]


def draw_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Draw what the runs have figures for.

    Args:
        comparison: All runs.
        folder: Where the pictures go, one PNG each.

    Returns:
        The pictures: quality against ratio, history, difficulty, and compute.
    """
    several = {
        axis: [task for task in comparison.tasks if len(comparison.along(task, axis)) > 1]
        for axis in ("ratio", "segments")
    }
    made = []
    for axis, label in (("ratio", "text tokens per virtual token"), ("segments", "history, segments")):
        if several[axis]:
            made.append(folder / f"quality-by-{axis}.png")
            with _panels(comparison, several[axis], made[-1]) as panels:
                for task, panel in panels:
                    _lines(comparison, task, panel, axis, label)
    harder = [task for task in comparison.tasks if comparison.difficulty(task)]
    if harder:
        made.append(folder / "quality-by-difficulty.png")
        with _panels(comparison, harder, made[-1]) as panels:
            for task, panel in panels:
                name = comparison.difficulty(task) or ""
                _lines(comparison, task, panel, name, f"number of {name.replace('_', ' ')}")
    costs = (("train_tokens_per_second", "training, tokens per second"), ("train_seconds", "training, seconds"))
    for cost, label in costs:
        made.append(folder / f"quality-by-{cost.replace('_', '-')}.png")
        with _panels(comparison, comparison.tasks, made[-1]) as panels:
            for task, panel in panels:
                _points(comparison, task, panel, lambda m, t=task, c=cost: comparison.cost(t, m, c), label)  # type: ignore[misc]
    made.append(folder / "quality-by-bytes.png")
    with _panels(comparison, comparison.tasks, made[-1]) as panels:
        for task, panel in panels:
            # What a reader pays is not what a memory weighs: keys and values of all layers are many bytes a position.
            _points(comparison, task, panel, lambda m, t=task: comparison.score(t, m, "bytes").mean, "memory, bytes")  # type: ignore[misc]
    return made


def styles_of(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """How each method is drawn, the same in all plots."""
    styles: dict[str, dict[str, Any]] = {}
    count = dict.fromkeys(("ours", "peer", "control", "reference"), 0)
    for method in comparison.methods:
        group = comparison.group[method]
        i = count[group]
        count[group] += 1
        marker = MARKERS[i % len(MARKERS)]
        styles[method] = {
            "ours": {"color": OURS[i % len(OURS)], "linewidth": 2.8, "marker": marker, "markersize": 7, "zorder": 5},
            "peer": {"color": PEERS[i % len(PEERS)], "linewidth": 1.0, "marker": marker, "markersize": 5, "zorder": 4},
            "control": {
                "color": "0.55", "linewidth": 1.2, "linestyle": DASHES[i % len(DASHES)], "marker": marker,
                "markersize": 4, "markerfacecolor": "white", "zorder": 3,
            },
            "reference": {"color": "black", "linewidth": 1.2, "linestyle": ":", "zorder": 2},
        }[group]  # fmt: skip
        if group == "reference":
            styles[method]["marker"] = "_"
    return styles


def _lines(comparison: Comparison, task: str, panel: Any, axis: str, label: str) -> None:
    """A line a method: means over seeds, with bars from the lowest seed to the highest."""
    along = comparison.along(task, axis)
    values = list(along)
    for method, style in styles_of(comparison).items():
        scores = [comparison.score(task, method, None, places) for places in along.values()]
        drawn = [(v, s) for v, s in zip(values, scores, strict=True) if s.values]
        if drawn:
            x, found = zip(*drawn, strict=True)
            panel.errorbar(x, [s.mean for s in found], yerr=_bars(found), elinewidth=0.8, capsize=2, **style)
    if min(values) > 0 and max(values) / min(values) >= 4:
        panel.set_xscale("log", base=2)
    panel.set_xticks(values, [str(value) for value in values])
    panel.minorticks_off()
    panel.set_xlabel(label)


def _points(comparison: Comparison, task: str, panel: Any, place: Callable[[str], float], label: str) -> None:
    """A point a method: its mean over all rows against what it costs."""
    found = []
    for method, style in styles_of(comparison).items():
        x, score = place(method), comparison.score(task, method)
        if math.isfinite(x) and x > 0 and score.values:
            found.append(x)
            larger = {**style, "markersize": 1.4 * style.get("markersize", 7), "linestyle": "none"}
            panel.errorbar([x], [score.mean], yerr=_bars([score]), elinewidth=0.8, **larger)
    if found and (span := max(found) / min(found)) > 3:
        from matplotlib.ticker import EngFormatter, LogLocator

        panel.set_xscale("log")
        # Over more than three decades, labels at 2 and 5 run into each other.
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 1000 else (1,)))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.minorticks_off()
    panel.set_xlabel(label)


def _bars(scores: Sequence[Score]) -> list[list[float]] | None:
    """How far below and above each mean the seeds reach; nothing where there is one of each."""
    if all(len(score.values) == 1 for score in scores):
        return None
    # A mean of equal figures may be off by its rounding.
    return [[max(0.0, sign * (s.mean - of(s.values))) for s in scores] for sign, of in ((1, min), (-1, max))]


@contextmanager
def _panels(comparison: Comparison, tasks: list[str], path: Path) -> Iterator[list[tuple[str, Any]]]:
    """A panel for each task, to be drawn inside; then one legend at the side, and the file is written."""
    with importing("report", "drawing plots"):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
        from matplotlib.lines import Line2D

    columns = min(PANELS_A_ROW, len(tasks))
    n_rows = -(-len(tasks) // columns)
    # The legend needs its height whatever the number of panels.
    size = (4.2 * columns + 2.6, max(3.4 * n_rows, 0.21 * (len(comparison.methods) + 5)))
    figure, grid = pyplot.subplots(n_rows, columns, squeeze=False, figsize=size, layout="constrained")
    panels = [panel for row in grid for panel in row]
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    used = list(zip(tasks, panels, strict=False))
    try:
        yield used
        for task, panel in used:
            panel.set_title(task.replace("_", " "), fontsize=10)
            panel.set_ylabel(comparison.metric[task].replace("_", " "))
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        handles: list[Any] = []
        styles = styles_of(comparison)
        for group, title in (("ours", "ours"), ("peer", "peers"), ("control", "controls"), ("reference", "reference")):
            members = [m for m in comparison.methods if comparison.group[m] == group]
            handles += [Line2D([], [], linestyle="none", label=f"$\\bf{{{title}}}$")] if members else []
            handles += [Line2D([], [], label=m.replace("_", " "), **styles[m]) for m in members]
        figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8, handlelength=3.2)
        figure.savefig(path, dpi=150)
    finally:
        pyplot.close(figure)
