"""Training steps on one device: tokens per second, share of the chip's peak and memory, by length and attention.

A step is one segment behind a memory: its forward likelihood, and the square of the memory that it writes, so that
the gradient passes through the reversible stack; then Adam. Each combination runs with the stack's recomputation and
without. The backbone, and then a Llama of random weights: speed does not depend on what weights say.

**No GPU figures were recorded with this script so far**: it has been run at toy sizes on a CPU only, to know that it
works.

Shape legend: B rows, N text tokens, K virtual tokens, D width, V vocabulary.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.parts.harness import console, parser, peak_mib, run, start, table, write
from benchmarks.systems.memory_sizes import SHAPES, Shape
from benchmarks.systems.memory_table import config_of, shape_of
from r3mem import Backbone, InputError, R3Mem, Segments, objectives
from r3mem.backbone.backbone import DTYPES
from r3mem.compressors import VirtualTokens
from r3mem.memory import MemoryState
from r3mem.reversible import AttentionCoupling, PositionBinding, ReversibleStack

COLUMNS = (
    "method", "attention", "tokens", "recomputes", "tokens_per_second", "share_of_peak", "peak_mib", "failed",
)  # fmt: skip


def step_flops(shape: Shape, adapters: int, tokens: int) -> float:
    """Operations that a training step on a text needs at least.

    Frozen maps: forward, and backward to their input; adapters: to their weights too. Attention: the causal half of
    scores and sums, forward and twice that backward. What is computed again is not counted, nor are virtual tokens.

    Args:
        shape: The backbone's.
        adapters: Numbers in its adapters.
        tokens: Text tokens of a row.
    """
    maps = shape.linear_weights + shape.vocabulary * shape.width
    attention = 6 * shape.layers * shape.heads * shape.head_width * tokens
    return float(tokens) * (4 * maps + 6 * adapters + attention)


def random_shape(text: str) -> Shape:
    """A name of ``SHAPES``, or V,D,I,layers,heads,key-value heads,head width.

    Raises:
        InputError: It is neither.
    """
    if text in SHAPES:
        return SHAPES[text]
    parts = text.split(",")
    if len(parts) != 7 or not all(part.isdigit() for part in parts):
        raise InputError(
            f"--random {text!r}: give one of {', '.join(SHAPES)}, or seven numbers: V,D,I,layers,heads,key-value heads,"
            "head width"
        )
    return Shape(*map(int, parts), tied=True)  # type: ignore[misc, arg-type]


def backbones(args: argparse.Namespace, attention: str) -> dict[str, Any]:
    """By name, what makes each backbone; one is in memory at a time."""

    def given() -> Backbone:
        return Backbone(args.backbone, args.dtype, args.rank, attn_implementation=attention)

    def random() -> Backbone:
        tokenizer = Backbone(args.backbone, args.dtype, 0).tokenizer
        config = config_of(random_shape(args.random))
        config.max_position_embeddings = 2 * max(args.lengths)
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[args.dtype], attn_implementation=attention)
        return Backbone.wrap(model, tokenizer, "random", args.rank)

    return {args.backbone: given, f"random {args.random}": random}


def build(backbone: Backbone, args: argparse.Namespace, recomputes: bool) -> R3Mem:
    """The model around a backbone, on the device."""
    shape, ratio = shape_of(backbone.base.config), args.ratio[0]
    write_layer, read_layer = max(1, shape.layers * 2 // 5), max(1, shape.layers // 8)
    couplings = [AttentionCoupling(shape.width, ratio) for _ in range(args.couplings)]
    stack = ReversibleStack([PositionBinding(shape.width, ratio, args.share), *couplings], recomputes)
    compressor = VirtualTokens(shape.width, ratio, write_layer=write_layer, read_layer=read_layer)
    return R3Mem(backbone, compressor, stack).to(args.device).train()


def train_step(model: R3Mem, text: Segments, state: MemoryState, optimizer: torch.optim.Optimizer) -> None:
    """Forward, backward, Adam."""
    step = model.step(text, state, True)
    assert step.scores is not None
    known_B = torch.ones_like(text.lengths_B, dtype=torch.bool)
    summed, count = objectives.forward_nll(step.scores, text, known_B)
    loss: Tensor = summed / count + step.state.slots_BKD.float().square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def measured(model: R3Mem, length: int, args: argparse.Namespace) -> dict[str, Any]:
    """Speed and memory of steps on texts of a length."""
    cuda = args.device.startswith("cuda")
    ids_BN = torch.randint(model.backbone.vocabulary, (args.batch, length), device=args.device)
    text = Segments(ids_BN, torch.full((args.batch,), length, device=args.device))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    with torch.no_grad():
        state = model.step(text, None, False).state.detach()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(args.warmup + args.steps):
        began = time.perf_counter()
        train_step(model, text, state, optimizer)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    step = statistics.median(seconds[args.warmup :])
    shape = shape_of(model.backbone.base.config)
    flops = args.batch * step_flops(shape, shape.adapter_weights(args.rank), length)
    share = flops / step / (args.peak_tflops * 1e12) if args.peak_tflops else None
    return {"tokens_per_second": args.batch * length / step, "tflops_per_second": flops / step / 1e12,
            "share_of_peak": share, "peak_mib": round(peak_mib())}  # fmt: skip


def rows_of(name: str, make: Any, attention: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every length, with and without recomputation; what does not fit into memory says so."""
    rows = []
    for recomputes in (True, False):
        model = build(make(), args, recomputes)
        for length in args.lengths:
            row: dict[str, Any] = {"method": name, "attention": attention, "tokens": length, "recomputes": recomputes,
                                   "shape": astuple(shape_of(model.backbone.base.config))}  # fmt: skip
            try:
                row |= measured(model, length, args)
            except torch.OutOfMemoryError:
                row["failed"] = "out of memory"
            model.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            rows.append(row)
            console.print({key: value for key, value in row.items() if key != "shape"})
        del model
    return rows


def main() -> None:
    """Both backbones, every attention."""
    p = parser("Speed and memory of training steps on one device", [16])
    p.set_defaults(dtype="bfloat16")
    p.add_argument("--device", default="cuda", help="where to run; cpu for toy sizes")
    p.add_argument("--random", default="Llama 3.2 1B", help="shape of the random Llama, or V,D,I,layers,heads,kv,width")
    p.add_argument(
        "--lengths", nargs="+", type=int, default=[2048, 4096, 8192, 16384, 32768], help="text tokens of a row"
    )
    p.add_argument("--attentions", nargs="+", default=["sdpa", "eager"], help="attention paths of transformers")
    p.add_argument("--batch", type=int, default=1, help="rows")
    p.add_argument("--couplings", type=int, default=4, help="trained couplings behind the binding")
    p.add_argument("--rank", type=int, default=16, help="of the adapters")
    p.add_argument("--share", type=float, default=0.25, help="part of a slot that carries words")
    p.add_argument("--steps", type=int, default=5, help="steps that are timed")
    p.add_argument("--warmup", type=int, default=2, help="steps before them")
    p.add_argument(
        "--peak-tflops", type=float, default=None, help="the chip's peak in this precision, from its data sheet"
    )
    args = start(p)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("no CUDA device here: give --device cpu and toy sizes, for example --lengths 64")
    random_shape(args.random)
    rows = []
    for attention in args.attentions:
        for name, make in backbones(args, attention).items():
            rows += rows_of(name, make, attention, args)
    table("Training steps on one device", rows, COLUMNS)
    write(args.json, args.seed, rows, peak_tflops=args.peak_tflops, device=args.device)


if __name__ == "__main__":
    run(main)
