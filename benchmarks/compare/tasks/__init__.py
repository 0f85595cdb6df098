"""The tasks of the comparison, one file each: a file of this folder is a task by its name, and has it in ``TASK``."""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.compare.synthetic.grid import Grid
from benchmarks.compare.text.task import TextTask

_FOUND = {
    module.name: importlib.import_module(f"{__name__}.{module.name}").TASK for module in pkgutil.iter_modules(__path__)
}
SYNTHETIC_TASKS: dict[str, Grid] = {name: task for name, task in _FOUND.items() if isinstance(task, Grid)}
TEXT_TASKS: dict[str, TextTask] = {name: task for name, task in _FOUND.items() if isinstance(task, TextTask)}
