"""Remember unseen text in a few virtual tokens, get it back word for word, and read it; nothing is trained first.

With ``--train`` adapters are trained for a few minutes, and the same is shown of the trained model.

Shape legend: B batch, N text tokens.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers.utils import logging

from r3mem import MemoryState, R3Mem, R3MemError, Segments
from r3mem.objectives import forward_nll

ROOT = Path(__file__).resolve().parents[1]
# Tables are wider than the 80 columns that a pipe is taken for.
console = Console(width=None if sys.stdout.isatty() else 170)
HISTORY, CONTINUATION = 512, 256
RATIOS = (4, 8, 16, 32)
# Passages are as many as about so many seconds allow. One takes as long as eight readings of its tokens.
SECONDS, MOST_PASSAGES, FEWEST_PASSAGES, READINGS = 120, 12, 4, 8
CONFIG = ROOT / "configs" / "experiment" / "quickstart.yaml"
COLUMNS = (
    "ratio", "positions", "recall_exact_match", "correction_bits_per_token", "ppl_nothing", "ppl_memory",
    "ppl_last_n", "ppl_full", "gain_memory", "gain_last_n", "memory_bytes", "text_bytes", "retain_tokens_per_s",
    "recall_tokens_per_s",
)  # fmt: skip


def trained(folder: Path, extra: list[str]) -> Path:
    """Folder of the trained model; trains it with ``r3mem fit`` where there is none."""
    if (folder / "model" / "r3mem.json").is_file():
        console.print(f"trained before: {folder / 'model'} (delete the folder to train again)")
        return folder / "model"
    from lightning_modules.cli import main as r3mem

    command = ["fit", "--config", os.path.relpath(CONFIG), "--export.folder", str(folder / "model"), *extra]
    console.print(f"$ r3mem {' '.join(command)}", highlight=False)
    r3mem(command)
    return folder / "model"


def held_out(tokenizer: Any, most: int) -> list[list[int]]:
    """Windows of history and continuation from the test documents of the configuration's own split."""
    import yaml

    from datamodules.documents import DocumentsDataModule

    given = yaml.safe_load(CONFIG.read_text())["data"]["init_args"]
    data = DocumentsDataModule(**{**given, "tokenizer": tokenizer})
    data.setup("test")
    corpus, size = data.documents("test"), HISTORY + CONTINUATION
    starts = [(d, s) for d, n in enumerate(corpus.lengths.tolist()) for s in range(0, n - size + 1, size)]
    return [corpus.read(d, s, s + size).tolist() for d, s in starts][:most]


def affordable(model: Any, window: list[int]) -> int:
    """Passages that this machine can measure in the time there is."""
    began = time.perf_counter()
    perplexity_after(model, [window], HISTORY)
    return max(FEWEST_PASSAGES, min(MOST_PASSAGES, int(SECONDS / READINGS / (time.perf_counter() - began))))


def tell(what: str) -> None:
    """A line of progress where no bar is drawn."""
    if not console.is_terminal:
        console.print(what, highlight=False)


def perplexity_after(model: Any, windows: list[list[int]], n: int) -> float:
    """Perplexity of the continuations read after their last ``n`` raw tokens of history."""
    logits_BNV = model.likelihood(Segments.pad([w[HISTORY - n :] for w in windows]))[:, n:]
    return _perplexity(logits_BNV, Segments.pad([w[HISTORY:] for w in windows]))


def _perplexity(logits_BNV: torch.Tensor, text: Segments) -> float:
    total, count = forward_nll(logits_BNV, text, text.lengths_B > 0)
    return math.exp(float(total / count))


@torch.no_grad()
def measure(model: Any, windows: list[list[int]], ratio: int) -> dict[str, Any]:
    """Recall, corrections, perplexities, sizes and speeds at one ratio."""
    model.set_ratio(ratio)
    histories = [w[:HISTORY] for w in windows]
    began = time.perf_counter()
    memories = model.retain(histories)
    retained = time.perf_counter() - began
    began = time.perf_counter()
    texts = [model.recall_ids(memory) for memory in memories]
    recalled = time.perf_counter() - began
    if texts != histories:
        raise RuntimeError("recall with corrections returned another text")
    text = Segments.pad([w[HISTORY:] for w in windows])
    state = MemoryState.stacked([model.state(memory) for memory in memories])
    tokens = len(windows) * HISTORY
    return {
        "ratio": ratio, "positions": memories[0].n_slots,
        "recall_exact_match": sum(not any(m.wrong) for m in memories) / len(memories),
        "correction_bits_per_token": sum(m.correction_bits for m in memories) / tokens,
        "ppl_memory": _perplexity(model.likelihood(text, state), text),
        "ppl_last_n": perplexity_after(model, windows, HISTORY // ratio),
        "memory_bytes": sum(m.nbytes for m in memories) // len(memories),
        "text_bytes": sum(len(model.backbone.tokenizer.decode(h).encode()) for h in histories) // len(histories),
        "retain_tokens_per_s": round(tokens / retained), "recall_tokens_per_s": round(tokens / recalled),
    }  # fmt: skip


def with_gain(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the share of the full history's gain that the memory and as many raw tokens keep."""
    nothing, full = math.log(row["ppl_nothing"]), math.log(row["ppl_full"])
    return row | {
        f"gain_{name}": (nothing - math.log(row[f"ppl_{name}"])) / (nothing - full) for name in ("memory", "last_n")
    }


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Recall and retention against the ratio."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ratios = [r["ratio"] for r in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    left.plot(
        ratios,
        [100 * r["recall_exact_match"] for r in rows],
        "o-",
        color="tab:blue",
        label="exact segments, tokens alone",
    )
    left.axhline(100, ls=":", color="tab:green", label="exact segments, with corrections")
    left.set(
        xlabel="ratio (text tokens per virtual token)",
        ylabel="recall exact match, %",
        ylim=(-3, 105),
        title="Retrieval: the text run backward",
    )
    cost = left.twinx()
    cost.plot(ratios, [r["correction_bits_per_token"] for r in rows], "s--", color="tab:orange", label="corrections")
    cost.set(ylabel="corrections, bits per token", ylim=(0, 18))
    lines = [*left.get_lines(), *cost.get_lines()]
    left.legend(lines, [str(line.get_label()) for line in lines], loc="center left", fontsize=8)
    for key, label, style in (
        ("ppl_nothing", "nothing", ":"), ("ppl_memory", "memory", "o-"),
        ("ppl_last_n", "as many raw recent tokens", "s--"), ("ppl_full", "the full history", "-."),
    ):  # fmt: skip
        right.plot(ratios, [r[key] for r in rows], style, label=label)
    right.set(
        xlabel="ratio (text tokens per virtual token)",
        ylabel="perplexity of the next 256 tokens",
        title="Retention: what the model reads instead of 512 tokens",
    )
    right.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1.0, 0.06))
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.set_xticks(ratios, [str(r) for r in ratios])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    """Print rows as a table."""
    drawn = Table(title=title, title_justify="left")
    for column in columns:
        drawn.add_column(column.replace("_", " "), justify="right")
    for row in rows:
        values = (row[column] for column in columns)
        drawn.add_row(*(f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" for value in values))
    console.print(drawn)


def write(path: Path | None, rows: list[dict[str, Any]], **more: Any) -> None:
    """Write the figures, with what they were measured on, if a file was asked for. Nothing is drawn, so no seed."""
    if path is None:
        return
    command = shlex.join(["python", *sys.argv])
    made_on = {
        "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip
    asked = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(asked, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    about = {"command": command, "commit": commit, "date": date.today().isoformat(), "hardware": made_on}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**about, "rows": rows, **more}, indent=1) + "\n")
    console.print(f"written: {path}")


def main() -> None:
    """Build or train the model, measure, print, draw."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder of the run")
    p.add_argument("--passages", type=int, default=None, help="held-out passages; 12, or fewer on a slow machine")
    p.add_argument("--train", action="store_true", help="train adapters for some minutes first; what is left over goes "
                   "to r3mem fit")  # fmt: skip
    p.add_argument("--json", type=Path, default=None, metavar="FILE", help="where the result file goes")
    args, extra = p.parse_known_args()
    if extra and not args.train:
        p.error(f"{' '.join(extra)}: unknown without --train")
    began = time.perf_counter()
    model = R3Mem.from_pretrained(trained(args.out, extra)) if args.train else R3Mem()
    built_seconds = time.perf_counter() - began
    model.hierarchy.segment_tokens = HISTORY  # One memory of the whole history, whatever the segments of training were.
    windows = held_out(model.backbone.tokenizer, args.passages or MOST_PASSAGES)
    with torch.no_grad():
        if args.passages is None:
            windows = windows[: affordable(model, windows[0])]
        tell(f"measuring on {len(windows)} unseen passages")
        bounds = {f"ppl_{name}": perplexity_after(model, windows, n) for name, n in (("nothing", 0), ("full", HISTORY))}
    rows = []
    for ratio in track(RATIOS, "measuring on unseen text", console=console):
        rows.append(with_gain({**measure(model, windows, ratio), **bounds}))
        tell(f"ratio {ratio} measured, {time.perf_counter() - began:.0f} s since the start")
    table(f"{len(windows)} unseen passages: {HISTORY} tokens of history, then {CONTINUATION} tokens", rows, COLUMNS)
    console.print(
        "ppl: perplexity of the tokens after the history, read after nothing, the memory, as many raw recent tokens as "
        "the memory has positions, or the full history.\ngain: the share of what the full history is worth, counted in "
        "log-likelihood. In bytes a memory is larger than its text; it saves positions in the model's context.",
        highlight=False,
    )
    model.set_ratio(8)
    ids = windows[0][:48]
    memory = model.retain(ids)
    console.print(f"\n[bold]text[/bold] ({len(ids)} tokens)", highlight=False)
    console.print(model.backbone.tokenizer.decode(ids), markup=False, highlight=False)
    console.print(
        f"\n[bold]recalled[/bold] from {memory.n_slots} virtual tokens, {memory.correction_bits} bits of corrections",
        highlight=False,
    )
    console.print(model.recall(memory), markup=False, highlight=False)
    image = args.out / "quickstart.png"
    picture(rows, image)
    console.print(f"\npicture: {image}   this took {time.perf_counter() - began:.0f} s")
    write(
        args.json, rows, passages=len(windows), built_seconds=round(built_seconds),
        seconds=round(time.perf_counter() - began), trained=args.train,
    )  # fmt: skip


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.disable_progress_bar()
    try:
        main()
    except R3MemError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        raise SystemExit(2) from error
