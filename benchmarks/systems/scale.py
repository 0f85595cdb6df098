"""One process against several on one machine: speed, memory of each process and start-up, by strategy.

Every run is a real ``r3mem fit`` through the command line. All runs of a strategy have equal global batches and take
turns, so that whatever else the machine does falls on all of them; ratios are against one process in the same turn.
CPU processes share one memory and one machine's cores: figures from there show what a strategy costs, not what it
brings on GPUs (``--accelerator gpu``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.parts.harness import ROOT, console, parser, run, start, table, write
from r3mem import InputError

CONFIGS = ROOT / "configs"
ALONE = ("one", "one_all_threads")
STRATEGIES = (*ALONE, "ddp", "deepspeed_zero1", "deepspeed_zero2", "fsdp")
COLUMNS = (
    "method", "processes", "threads_each", "steps_per_second", "tokens_per_second", "relative_to_one", "spread",
    "first_step_seconds", "peak_resident_mib", "peak_allocated_mib", "optimizer_mib",
)  # fmt: skip


def arguments_of(strategy: str) -> list[str]:
    """What the command line gets for a strategy.

    Raises:
        InputError: There is none of that name.
    """
    path = CONFIGS / "trainer" / f"{'cpu' if strategy in ALONE else strategy}.yaml"
    if not path.is_file():
        raise InputError(f"strategy {strategy!r}: give {', '.join(ALONE)} or the name of a file in {path.parent}")
    return [f"--config={path}"]


def command(strategy: str, args: argparse.Namespace, folder: Path) -> list[str]:
    """The command line of one run.

    Raises:
        InputError: No such strategy, or rows that cannot be split evenly.
    """
    processes, of_strategy = 1 if strategy in ALONE else args.processes, arguments_of(strategy)
    if args.batch % processes:
        raise InputError(f"--batch {args.batch} rows cannot be split evenly over {processes} processes")
    settings = {
        "seed_everything": args.seed,
        "model.backbone.init_args.name": args.backbone,
        "model.backbone.init_args.dtype": args.dtype,
        # What calibration costs does not depend on the strategy, and it changes no speed.
        "model.calibrate": "false",
        "model.compressor.init_args.width": args.width,
        "model.compressor.init_args.ratio": args.ratio[0],
        "model.compressor.init_args.write_layer": args.write_layer,
        "model.compressor.init_args.read_layer": args.read_layer,
        "data.init_args.train": json.dumps(args.text),
        "data.init_args.segment_tokens": args.segment,
        "data.init_args.segments_per_step": args.segments,
        "data.init_args.min_tokens": 1,
        "data.init_args.mode": "window",
        "data.init_args.batch_size": args.batch // processes,
        "trainer.accelerator": args.accelerator,
        "trainer.devices": processes,
        "trainer.max_steps": args.warmup + args.steps,
        "trainer.limit_val_batches": 0,
        "trainer.logger": "false",
        "trainer.enable_checkpointing": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.default_root_dir": folder,
        "trainer.callbacks": "benchmarks.systems.step_clock.StepClock",
        "trainer.callbacks.init_args.folder": folder,
        "throughput.every_n_steps": 0,
    }
    files = [f"--config={CONFIGS}/model/virtual_tokens.yaml", f"--config={CONFIGS}/data/files.yaml"]
    given = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "lightning_modules.cli", "fit", *files, *of_strategy, *given]


def measured(strategy: str, args: argparse.Namespace) -> dict[str, Any]:
    """One run: its figures, of the steps after the first few.

    Raises:
        RuntimeError: It failed.
    """
    alone = strategy in ALONE
    threads = args.processes * (args.threads or 1) if strategy == "one_all_threads" else args.threads or 1
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    if args.accelerator != "cpu":
        environment.pop("DS_ACCELERATOR", None)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.time()
        done = subprocess.run(
            command(strategy, args, Path(scratch)), capture_output=True, text=True, cwd=ROOT, env=environment
        )
        if done.returncode:
            raise RuntimeError(f"{strategy} failed:\n{done.stderr[-3000:]}")
        ranks = [json.loads(path.read_text()) for path in sorted(Path(scratch).glob("rank*.json"))]
    assert len(ranks) == (1 if alone else args.processes)
    # Ranks wait for each other in every step: the first one's clock is everybody's.
    ends = ranks[0]["ends"]
    seconds = [after - before for before, after in itertools.pairwise(ends)][max(0, args.warmup - 1) :]
    tokens = [sum(counts) for counts in zip(*(rank["tokens"] for rank in ranks), strict=True)][-len(seconds) :]
    step = statistics.median(seconds)
    return {
        "method": strategy,
        "processes": len(ranks),
        "threads_each": threads,
        "steps_per_second": 1 / step,
        "tokens_per_second": statistics.mean(tokens) / step,
        "first_step_seconds": ends[0] - began,
        "peak_resident_mib": [round(rank["peak_resident_mib"]) for rank in ranks],
        "peak_allocated_mib": [round(rank["peak_allocated_mib"]) for rank in ranks],
        "optimizer_mib": [round(rank["optimizer_bytes"] / 2**20, 3) for rank in ranks],
        "trained_mib": round(ranks[0]["trained_bytes"] / 2**20, 3),
    }


def summary(strategy: str, turns: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Means over the turns; the ratio is taken turn by turn."""
    mine = [next(row for row in turn if row["method"] == strategy) for turn in turns]
    ratios = [
        row["tokens_per_second"] / next(r for r in turn if r["method"] == "one")["tokens_per_second"]
        for row, turn in zip(mine, turns, strict=True)
    ]
    means = {key: statistics.mean(row[key] for row in mine) for key in
             ("steps_per_second", "tokens_per_second", "first_step_seconds")}  # fmt: skip
    return {
        **mine[0],
        **means,
        "relative_to_one": statistics.mean(ratios),
        "spread": statistics.stdev(ratios) if len(ratios) > 1 else None,
        "peak_resident_mib": max(max(row["peak_resident_mib"]) for row in mine),
        "peak_allocated_mib": max(max(row["peak_allocated_mib"]) for row in mine),
        "optimizer_mib": max(mine[0]["optimizer_mib"]),
    }


def main() -> None:
    """Every strategy in turn, as often as asked."""
    p = parser("One process against several, by strategy", [16])
    p.add_argument("--strategies", nargs="+", default=list(STRATEGIES), metavar="NAME",
                   help="what is compared; 'one' is always there. A name of configs/trainer/ will do")  # fmt: skip
    p.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu", help="gpu: a process has a GPU of its own")
    p.add_argument("--processes", type=int, default=2, help="of every strategy but the first two")
    p.add_argument("--batch", type=int, default=2, help="rows of all processes together")
    p.add_argument("--segment", type=int, default=64, help="tokens of a segment")
    p.add_argument("--segments", type=int, default=2, help="segments of each row in a step")
    p.add_argument("--steps", type=int, default=8, help="steps that are timed")
    p.add_argument("--warmup", type=int, default=2, help="steps before them")
    p.add_argument("--repeats", type=int, default=2, help="turns")
    p.add_argument("--width", type=int, default=576, help="the backbone's")
    p.add_argument("--write-layer", type=int, default=12, help="where memories are written")
    p.add_argument("--read-layer", type=int, default=4, help="where memories are read")
    args = start(p)
    strategies = list(dict.fromkeys(["one", *args.strategies]))
    for strategy in strategies:
        command(strategy, args, Path())
    turns: list[list[dict[str, Any]]] = []
    for turn in range(args.repeats):
        # In every other turn the other way round: what grows worse with time falls on each.
        order = strategies if turn % 2 == 0 else strategies[::-1]
        rows = []
        for strategy in order:
            rows.append(measured(strategy, args))
            console.print(f"turn {turn + 1}, {strategy}: {rows[-1]['tokens_per_second']:,.0f} tokens/s")
        turns.append(rows)
    rows = [summary(strategy, turns) for strategy in strategies]
    table("Training by strategy; ratios are to one process in the same turn", rows, COLUMNS)
    write(args.json, args.seed, rows, turns=turns)


if __name__ == "__main__":
    run(main)
