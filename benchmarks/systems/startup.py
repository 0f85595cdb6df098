"""How long a user waits for small things: commands, imports, short texts; and what many texts take of memory.

Every command and import is a process of its own. ``--beside`` measures another checkout by turns with this one, so that
before and after come from one run on one machine::

    git worktree add ../before COMMIT
    python -m benchmarks.systems.startup --beside ../before --json benchmarks/results/startup-cpu.json
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.parts.harness import ROOT, commit_of, console, parser, run, start, table, write
from datamodules.sources import ReadingOptions, open_source
from r3mem import InputError

COLUMNS = ("what", "checkout", "seconds", "least", "peak_mib", "peak_before_mib", "exit_code")
#: Characters of a short text.
SHORT = 80
#: Of the ``r3mem`` command; the last one is mistyped.
COMMANDS = (["--help"], ["--version"], ["fitt"])
IMPORTS = ("pass", "import r3mem", "from r3mem import R3Mem")


@dataclass
class Checkout:
    """A working tree of this repository.

    Attributes:
        root: Where it lies.
        commit: Its commit; marked where the tree differs from it.
        rows: What was measured, by what it is: every turn's row.
    """

    root: Path
    commit: str
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def at(cls, root: Path) -> Checkout:
        """The one that lies at a place.

        Raises:
            InputError: None lies there.
        """
        root = root.resolve()
        if not (root / "r3mem" / "__init__.py").is_file() or not (root / "pyproject.toml").is_file():
            raise InputError(f"{root} is no checkout of this repository: make one with git worktree add {root} COMMIT")
        return cls(root, commit_of(root))

    @property
    def command(self) -> str:
        """Python that does what the ``r3mem`` command of this checkout does."""
        found = re.search(r'^r3mem = "([\w.]+):(\w+)"$', (self.root / "pyproject.toml").read_text(), re.MULTILINE)
        if found is None:
            raise InputError(f"{self.root}/pyproject.toml names no r3mem command: give another checkout")
        return f"import sys; sys.argv[0] = 'r3mem'; from {found[1]} import {found[2]}; {found[2]}()"

    def process(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Python with the code of this checkout, in a folder where nothing else is found."""
        with tempfile.TemporaryDirectory() as folder:
            return subprocess.run(
                [sys.executable, *arguments], cwd=folder, capture_output=True, text=True,
                env={**os.environ, "PYTHONPATH": str(self.root)},
            )  # fmt: skip

    def started(self, what: str, *arguments: str) -> None:
        """Time a process from its start to its end."""
        began = time.perf_counter()
        done = self.process(*arguments)
        self._add({"what": what, "seconds": time.perf_counter() - began, "exit_code": done.returncode})

    def worked(self, order: Path) -> None:
        """Have an order of `startup_work` done.

        Raises:
            InputError: This checkout cannot, or another one did it.
        """
        done = self.process(str(ROOT / "benchmarks" / "systems" / "startup_work.py"), str(order))
        if done.returncode:
            raise InputError(f"{self.root} ({self.commit}) cannot do this: {done.stderr.strip()[-600:]}")
        told = json.loads(done.stdout.splitlines()[-1])
        if not Path(told["package"]).is_relative_to(self.root):
            raise InputError(f"{told['package']} was imported instead of {self.root}: uninstall what stands before it")
        for row in told["rows"]:
            self._add(row)

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.setdefault(row["what"], []).append(row)

    def told(self, what: str) -> dict[str, Any]:
        """One row of all turns: medians, and the least time."""
        turns = self.rows[what]
        seconds = [row["seconds"] for row in turns]
        medians = {key: statistics.median(row[key] for row in turns) for key in turns[0] if key != "what"}
        return {
            "what": what, "checkout": self.root.name, "commit": self.commit, **medians, "least": min(seconds),
            "turns": seconds,
        }  # fmt: skip


def short_texts(path: str, most: int) -> list[str]:
    """Short texts one after the other in a source.

    Raises:
        InputError: It is too short for that many.
    """
    found: list[str] = []
    for document in open_source(path, ReadingOptions()).documents():
        cut = (document.text[at : at + SHORT] for at in range(0, len(document.text), SHORT))
        found += [text for text in cut if text.strip()]
        if len(found) >= most:
            return found[:most]
    raise InputError(f"{path}: {len(found)} texts of {SHORT} characters only; give a text that has {most}")


def main() -> None:
    """Measure by turns, print and write."""
    p = parser(__doc__.partition("\n")[0], [8])
    p.add_argument("--beside", nargs="+", type=Path, default=[], metavar="PATH", help="other checkouts, by turns")
    p.add_argument("--repeats", type=int, default=5, metavar="N", help="turns, of which medians count")
    p.add_argument(
        "--counts", nargs="+", type=int, default=[50, 200], metavar="N", help="short texts that are retained"
    )
    p.add_argument("--pieces", type=int, default=50, metavar="N", help="pieces that one memory is fed in")
    p.add_argument("--many", nargs=2, type=int, default=[256, 256], metavar=("TEXTS", "TOKENS"),
                   help="of one call whose peak memory is measured, once")  # fmt: skip
    args = start(p)
    if min(args.repeats, args.pieces, *args.counts, *args.many) < 1 or len(args.ratio) > 1:
        raise InputError("--repeats, --counts, --pieces and --many must be at least 1, and --ratio one number")
    checkouts = [Checkout.at(place) for place in (ROOT, *args.beside)]
    order = {
        "backbone": args.backbone, "dtype": args.dtype, "ratio": args.ratio[0], "threads": args.threads,
        "texts": short_texts(args.text[0], max(*args.counts, args.pieces)), "counts": args.counts,
        "pieces": args.pieces, "many": args.many,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        orders = {part: Path(folder) / f"{part}.json" for part in ("short", "many")}
        for part, file in orders.items():
            file.write_text(json.dumps({**order, "part": part}), encoding="utf-8")
        for turn in range(args.repeats):
            for checkout in checkouts:
                for words in COMMANDS:
                    checkout.started(f"r3mem {' '.join(words)}", "-c", checkout.command, *words)
                for code in IMPORTS:
                    checkout.started(f"python -c '{code}'", "-c", code)
                checkout.worked(orders["short"])
                if turn == 0:
                    checkout.worked(orders["many"])
            console.print(f"turn {turn + 1} of {args.repeats}", highlight=False)
    rows = [checkout.told(what) for what in checkouts[0].rows for checkout in checkouts]
    write(args.json, args.seed, rows, repeats=args.repeats, short_characters=SHORT)
    table("What a user waits for: medians", rows, COLUMNS)


if __name__ == "__main__":
    run(main)
