"""``r3mem predict`` by one process and by several: documents and tokens per second, in turns, every document once."""

from __future__ import annotations

import argparse
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
from datamodules.sources import ReadingOptions, open_source

CONFIGS = ROOT / "configs"
COLUMNS = (
    "processes", "threads_each", "documents", "tokens", "documents_per_second", "tokens_per_second", "relative_to_one",
    "spread", "start_seconds", "peak_resident_mib",
)  # fmt: skip


def write_corpus(path: str, count: int, characters: int, folder: Path) -> Path:
    """The first documents of a source, cut to a length, as a file of JSON lines."""
    corpus = folder / "corpus.jsonl"
    with corpus.open("w", encoding="utf-8") as file:
        for number, document in enumerate(open_source(path, ReadingOptions()).documents()):
            if number == count:
                break
            file.write(json.dumps({"text": document.text[:characters]}) + "\n")
    return corpus


def measured(processes: int, threads: int, corpus: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Compress the corpus into a new folder.

    Raises:
        RuntimeError: It failed, or a document is missing or there twice.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = {
            "seed_everything": args.seed,
            "model.backbone.init_args.name": args.backbone,
            "model.backbone.init_args.dtype": args.dtype,
            "model.compressor.init_args.width": args.width,
            "model.compressor.init_args.ratio": args.ratio[0],
            "model.compressor.init_args.write_layer": args.write_layer,
            "model.compressor.init_args.read_layer": args.read_layer,
            "data.init_args.train": corpus,
            "data.init_args.segment_tokens": args.segment,
            "data.init_args.batch_size": args.batch,
            "trainer.accelerator": args.accelerator,
            "trainer.devices": processes,
            "trainer.logger": "false",
            "trainer.default_root_dir": folder,
            "trainer.enable_progress_bar": "false",
            "trainer.callbacks": "benchmarks.systems.step_clock.PredictionClock",
            "trainer.callbacks.init_args.folder": folder / "clock",
            "memory_writer.folder": folder / "memories",
        }
        trainer = "cpu" if processes == 1 else "ddp"
        files = [
            f"--config={CONFIGS}/{name}.yaml" for name in ("model/virtual_tokens", "data/files", f"trainer/{trainer}")
        ]
        command = [sys.executable, "-m", "lightning_modules.cli", "predict", *files]
        command += [f"--{name}={value}" for name, value in settings.items()]
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        began = time.time()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        if done.returncode:
            raise RuntimeError(f"{processes} processes failed:\n{done.stderr[-3000:]}")
        ranks = [json.loads(path.read_text()) for path in sorted((folder / "clock").glob("rank*.json"))]
        lines = [json.loads(line) for line in (folder / "memories" / "index.jsonl").read_text().splitlines()]
        numbers = [line["document"] for line in lines]
        files_there = {path.name for path in (folder / "memories").glob("*.safetensors")}
        wanted = len(corpus.read_text(encoding="utf-8").splitlines())
        if numbers != list(range(wanted)) or files_there != {line["file"] for line in lines} or len(ranks) != processes:
            raise RuntimeError(f"{processes} processes wrote {len(numbers)} of {wanted} documents: {numbers}")
    seconds = max(rank["seconds"] for rank in ranks)
    tokens = sum(rank["tokens"] for rank in ranks)
    return {
        "processes": processes,
        "threads_each": threads,
        "documents": wanted,
        "tokens": tokens,
        "documents_per_second": wanted / seconds,
        "tokens_per_second": tokens / seconds,
        "tokens_by_rank": [rank["tokens"] for rank in ranks],
        "start_seconds": ranks[0]["began"] - began,
        "peak_resident_mib": max(round(rank["peak_resident_mib"]) for rank in ranks),
    }


def summary(which: int, turns: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Means over the turns; the ratio to the first is taken turn by turn."""
    mine = [turn[which] for turn in turns]
    ratios = [turn[which]["documents_per_second"] / turn[0]["documents_per_second"] for turn in turns]
    means = {key: statistics.mean(row[key] for row in mine) for key in
             ("documents_per_second", "tokens_per_second", "start_seconds")}  # fmt: skip
    spread = statistics.stdev(ratios) if len(ratios) > 1 else None
    return {**mine[0], **means, "relative_to_one": statistics.mean(ratios), "spread": spread}


def main() -> None:
    """One process, one with all threads, several; in turns."""
    p = parser("Documents per second by number of processes", [16])
    p.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu", help="gpu: a process has a GPU of its own")
    p.add_argument("--processes", nargs="+", type=int, default=[2], help="numbers of processes beside one")
    p.add_argument("--documents", type=int, default=24, help="documents of the corpus")
    p.add_argument("--characters", type=int, default=4000, help="documents are cut to as many")
    p.add_argument("--batch", type=int, default=2, help="rows of each process")
    p.add_argument("--segment", type=int, default=256, help="tokens of a segment")
    p.add_argument("--repeats", type=int, default=2, help="turns")
    p.add_argument("--width", type=int, default=576, help="the backbone's")
    p.add_argument("--write-layer", type=int, default=12, help="where memories are written")
    p.add_argument("--read-layer", type=int, default=4, help="where memories are read")
    args = start(p)
    threads = args.threads or 1
    # One process may also use every core that several use together.
    runs = [(1, threads), (1, threads * max(args.processes)), *((n, threads) for n in args.processes)]
    turns: list[list[dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        corpus = write_corpus(args.text[0], args.documents, args.characters, Path(scratch))
        for turn in range(args.repeats):
            rows: dict[int, dict[str, Any]] = {}
            order = list(enumerate(runs))
            for which, (processes, each) in order if turn % 2 == 0 else order[::-1]:
                rows[which] = measured(processes, each, corpus, args)
                rate = rows[which]["documents_per_second"]
                console.print(f"turn {turn + 1}, {processes} processes of {each} threads: {rate:.2f} documents/s")
            turns.append([rows[which] for which in range(len(runs))])
    rows_out = [summary(which, turns) for which in range(len(runs))]
    table("Compressing a corpus; ratios are to one process in the same turn", rows_out, COLUMNS)
    write(args.json, args.seed, rows_out, turns=turns)


if __name__ == "__main__":
    run(main)
