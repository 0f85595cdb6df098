"""``r3mem report``: the runs of a comparison as one table, a page and plots."""

from lightning_modules.report.comparison import Comparison, Score
from lightning_modules.report.runs import Run, read_runs

__all__ = ["Comparison", "Run", "Score", "read_runs"]
