"""Time to the first token behind a long history: read anew as text, or a stored memory loaded; and bytes of both.

A memory is written once, in one pass or in segments, each time in a process of its own that tells how long it took and
by how much resident memory grew. What is timed afterwards is loading the file and continuing a prompt, and reading the
text with the same prompt, by turns in one process; medians count. Files were just written, so that a disk's own time is
hardly in it. ``pays after`` is the number of prompts whose time saved makes up for writing.

The bytes: of the memory's file in either precision, of the keys and values that reading the whole text keeps, of those
of as many raw tokens as the memory has positions, of the text itself, and how far writing made the process grow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.parts.asked import PROMPT, ids_of
from benchmarks.parts.harness import console, documents, parser, resident_mib, run, start, table, timed, write
from benchmarks.parts.reading import add_model, model_of
from r3mem import Backbone, InputError, Memory, R3Mem

PRECISIONS = ("float16", "int8")
ASKED = PROMPT.format(query="What is this text about?")
COLUMNS = (
    "tokens", "path", "ratio", "precision", "reach", "positions", "load_ms", "first_token_ms", "times_as_fast",
    "write_seconds", "pays_after",
)  # fmt: skip
BYTE_COLUMNS = (
    "tokens", "path", "ratio", "positions", "file_float16", "file_int8", "cache_of_all", "cache_of_positions",
    "text_utf8", "growth_mib",
)  # fmt: skip


@dataclass
class Way:
    """One way to a first token.

    Attributes:
        about: Columns that say what it is.
        ratio: At which the model reads.
        load: Gets the memory, or None where there is none.
        prompt: What is continued.
        reach: What of the memory is read.
        loads: Seconds that it took to get the memory.
        totals: Seconds from nothing to the first token, loading included.
    """

    about: dict[str, Any]
    ratio: int
    load: Callable[[], Memory | None]
    prompt: str
    reach: str = "state"
    loads: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)

    def take(self, model: R3Mem, counted: bool) -> None:
        """Go it once."""
        held: list[Memory | None] = []
        with model.at_ratio(self.ratio):
            load = timed(lambda: held.append(self.load()))
            first = timed(lambda: model.generate(self.prompt, held[0], self.reach, max_new_tokens=1, do_sample=False))
        if counted:
            self.loads.append(load)
            self.totals.append(load + first)


def text_of(path: str, backbone: Backbone, tokens: int) -> str:
    """The first so many tokens of a source's documents as text, or a few fewer: those that the text has again.

    Raises:
        InputError: There are not so many.
    """
    ids = [token for document in documents(path, backbone, tokens) for token in document]
    if len(ids) < tokens:
        raise InputError(f"{path}: {len(ids)} tokens only; give more text or a shorter --history")
    for end in range(tokens, max(0, tokens - 8), -1):
        text = str(backbone.tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False))
        if ids_of(backbone.tokenizer, text) == ids[:end]:
            return text
    raise InputError(f"{path}: its first {tokens} tokens make a text of other tokens; give another text")


def cache_bytes(backbone: Backbone, tokens: int) -> int:
    """Bytes of the keys and values of so many tokens in all layers, as ``generate`` keeps them."""
    return tokens * backbone.key_values.width * backbone.compute.itemsize


def positions(model: R3Mem, ratio: int, memory: Memory, reach: str) -> int:
    """Positions that reading a memory takes."""
    with model.at_ratio(ratio):
        return int(model.compressor.read(model.state(memory, reach)).mask_BP.sum())


def growth_mib(call: Callable[[], Any], every: float = 0.002) -> float:
    """By how much the memory that this process holds grows at most during a call, looked up every few ms, MiB."""
    before = highest = resident_mib()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(every):
            highest = max(highest, resident_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(highest, resident_mib()) - before


def write_one(args: argparse.Namespace, folder: Path, tokens: int, segment: int, ratio: int) -> None:
    """Write a memory in each precision to a folder; the last line that is printed says what it took."""
    model = model_of(args)
    text = text_of(args.text[0], model.backbone, tokens)
    model.set_ratio(ratio)
    model.hierarchy.segment_tokens = segment
    # The first pass prepares what later ones find ready.
    model.retain(ids_of(model.backbone.tokenizer, text)[:64])
    told: dict[str, Any] = {"seconds": {}}
    for precision in PRECISIONS:
        kept: list[Memory] = []

        def retain(precision: Any = precision, kept: list[Memory] = kept) -> None:
            began = time.perf_counter()
            kept.append(model.retain(text, precision=precision))
            told["seconds"][precision] = time.perf_counter() - began

        growth = growth_mib(retain)
        # What the first call left behind is not the second's growth.
        told.setdefault("growth_mib", round(growth))
        kept[0].save(folder / f"{precision}.safetensors")
    print(json.dumps(told))


def written(folder: Path, tokens: int, segment: int, ratio: int) -> dict[str, Any]:
    """The same in a process of its own; gives what it said."""
    folder.mkdir(parents=True, exist_ok=True)
    order = [str(folder), str(tokens), str(segment), str(ratio)]
    command = [sys.executable, "-m", "benchmarks.systems.latency", *sys.argv[1:], "--write-one", *order]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


def measure(model: R3Mem, args: argparse.Namespace, tokens: int, folder: Path) -> tuple[list[Any], list[Any]]:
    """Rows of times and rows of bytes of one history."""
    text = text_of(args.text[0], model.backbone, tokens)
    n_tokens = len(ids_of(model.backbone.tokenizer, text))
    base = {"tokens": n_tokens, "path": "the text", "positions": n_tokens}
    ways = [Way(base, model.ratio, lambda: None, text + ASKED)]
    sizes = []
    # In one pass, and in segments where there are several.
    segments = {"one pass": n_tokens} | {f"segments of {n}": n for n in [args.segment] if n < n_tokens}
    for ratio in args.ratio:
        for path, segment in segments.items():
            place = folder / f"{n_tokens}-{ratio}-{segment}"
            told = written(place, tokens, segment, ratio)
            console.print(f"{n_tokens:,} tokens, ratio {ratio}, {path}: {told}")
            about = {"tokens": n_tokens, "path": path, "ratio": ratio}
            files = {precision: place / f"{precision}.safetensors" for precision in PRECISIONS}
            for precision, file in files.items():
                more = {"precision": precision, "write_seconds": told["seconds"][precision]}
                for reach in ("state",) if path == "one pass" else ("state", "records"):
                    read = {"reach": reach, "positions": positions(model, ratio, Memory.load(file), reach)}
                    ways.append(Way({**about, **more, **read}, ratio, partial(Memory.load, file), ASKED, reach))
            n_slots = Memory.load(files["float16"]).n_slots
            sizes.append({
                **about, "positions": n_slots,
                **{f"file_{precision}": file.stat().st_size for precision, file in files.items()},
                "cache_of_all": cache_bytes(model.backbone, n_tokens),
                "cache_of_positions": cache_bytes(model.backbone, n_slots), "text_utf8": len(text.encode()),
                "growth_mib": told["growth_mib"],
            })  # fmt: skip
    for turn in range(args.repeats + 1):
        for way in ways:
            way.take(model, turn > 0)
    return times(ways), sizes


def times(ways: list[Way]) -> list[dict[str, Any]]:
    """Medians of each way beside those of the first, which reads the text."""
    rows, read = [], statistics.median(ways[0].totals)
    for way in ways:
        load, total = statistics.median(way.loads), statistics.median(way.totals)
        row = {**way.about, "first_token_ms": 1000 * total, "times_as_fast": read / total, "seconds": way.totals}
        if "write_seconds" in row:
            saved = read - total
            row |= {"load_ms": 1000 * load, "pays_after": row["write_seconds"] / saved if saved > 0 else None}
        rows.append(row)
    return rows


@torch.no_grad()
def main() -> None:
    """Write the memories, time, print and write."""
    p = parser("Time to the first token behind a long history, and bytes of what is read", [8, 32])
    p.add_argument("--history", nargs="+", type=int, default=[2048, 7936], metavar="N", help="tokens of a history")
    p.add_argument("--segment", type=int, default=512, help="tokens of a segment where a history is streamed")
    p.add_argument("--repeats", type=int, default=5, help="times that every way is gone, by turns, after one uncounted")
    p.add_argument("--write-one", nargs=4, default=None, help=argparse.SUPPRESS)
    add_model(p)
    args = start(p)
    torch.set_flush_denormal(True)
    if args.write_one is not None:
        folder, *numbers = args.write_one
        write_one(args, Path(folder), *map(int, numbers))
        return
    if min(args.repeats, args.segment, *args.history, *args.ratio) < 1:
        raise InputError("--repeats, --segment, --history and --ratio must be at least 1")
    model = model_of(args)
    longest = model.backbone.max_positions - len(ids_of(model.backbone.tokenizer, ASKED))
    if max(args.history) > longest:
        raise InputError(
            f"a history of {max(args.history)} tokens and the prompt do not fit the {model.backbone.max_positions} "
            f"positions of {model.backbone.name}: give a --history of at most {longest}"
        )
    rows: list[dict[str, Any]] = []
    sizes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for tokens in args.history:
            new, new_sizes = measure(model, args, tokens, Path(folder))
            rows, sizes = rows + new, sizes + new_sizes
            write(args.json, args.seed, rows, bytes=sizes, repeats=args.repeats, model=args.model)
    table("Time to the first token, and what it took to write the memory", rows, COLUMNS)
    table("Bytes, told honestly", sizes, BYTE_COLUMNS)


if __name__ == "__main__":
    run(main)
