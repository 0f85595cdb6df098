"""``r3mem report DIR``: the runs below a folder as one table in the terminal, a page and plots."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.report.comparison import Comparison
from lightning_modules.report.page import notes, page, terminal_table
from lightning_modules.report.runs import read_runs
from r3mem.errors import InputError, told_in_a_line
from r3mem.errors.extras import check_installed
from r3mem.errors.suggestions import Arguments
from r3mem.plain_data.whole_file import replacing

if TYPE_CHECKING:
    from rich.console import Console

PAGE = "README.md"


def report(folder: Path, out: Path, console: Console, strict: bool = False) -> Comparison:
    """Read all runs, print the table, write the page and the plots.

    Args:
        folder: Where the files of the runs are.
        out: Where the page and the plots go.
        console: Where the table goes.
        strict: Refuse a comparison in which a run or a row is missing, after it has been shown.

    Raises:
        InputError: See :func:`read_runs`; or something is missing and ``strict``.
    """
    comparison = Comparison(read_runs(folder))
    console.print(terminal_table(comparison))
    for note in notes(comparison):
        console.print(note, highlight=False, soft_wrap=True)
    # Drawing takes a second to load.
    from lightning_modules.report.plots import draw_plots

    out.mkdir(parents=True, exist_ok=True)
    plots = draw_plots(comparison, out)
    with replacing(out / PAGE) as path:
        path.write_text(page(comparison, plots), encoding="utf-8")
    console.print(f"written: {out / PAGE} and {len(plots)} plots", highlight=False, soft_wrap=True)
    absent = comparison.missing()
    if strict and absent:
        raise InputError(f"{len(absent)} runs or parts of them are missing, the first is {absent[0]}: run them")
    return comparison


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Instead of the process's own.
    """
    p = Arguments(
        prog="r3mem report", description="Runs of python -m benchmarks.compare as one table, a page and plots."
    )
    p.add_argument("folder", type=Path, metavar="DIR", help="the runs of one suite, benchmarks/results/compare/SUITE")
    p.add_argument(
        "--out", type=Path, metavar="DIR", help=f"where {PAGE} and the plots go; the folder itself if left out"
    )
    p.add_argument("--strict", action="store_true", help="exit with an error if a run or a row is missing")
    args = p.parse(arguments)
    with told_in_a_line():
        check_installed("report", "r3mem report")
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else 200)
        report(args.folder, args.out or args.folder, console, args.strict)
