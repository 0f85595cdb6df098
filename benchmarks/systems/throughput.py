"""What memory costs: speed against a plain forward pass, peak memory by history length and by number of couplings.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.compare.methods import compressor_of, methods
from benchmarks.parts.harness import (
    ROOT,
    console,
    documents,
    parser,
    peak_mib,
    resident_mib,
    run,
    start,
    table,
    timed,
    write,
)
from r3mem import Backbone, R3Mem, Segments
from r3mem.memory import slots_needed
from r3mem.memory.quantise import dequantise
from r3mem.reversible import AttentionCoupling, PositionBinding, ReversibleStack

SEGMENT = 512
LENGTH_COLUMNS = ("path", "tokens_per_second", "peak_mib", "resident_mib", "correction_bits_per_token")
SPEED_COLUMNS = ("path", "tokens_per_second", "relative_to_plain", "peak_mib")


def build(args: Any) -> R3Mem:
    """An untrained model with adapters: training changes no speed."""
    backbone = Backbone(args.backbone, args.dtype)
    ratio = args.ratio[0]
    stack = ReversibleStack([PositionBinding(backbone.width, ratio)])
    return R3Mem(backbone, compressor_of(args.compressor, backbone, ratio), stack).to(args.device).eval()


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median wall time of a call, after one call that is not counted."""
    call()
    return statistics.median(timed(call) for _ in range(repeats))


@torch.no_grad()
def speed_rows(model: R3Mem, ids: list[int], args: Any) -> list[dict[str, Any]]:
    """Tokens per second of every path over the same text, and the ratio to the plain pass of this run."""
    batch, repeats, device = args.batch, args.repeats, model.backbone.device
    rows_of_ids = [ids[i * SEGMENT : (i + 1) * SEGMENT] for i in range(batch)]
    text = Segments.pad(rows_of_ids, device)
    tokens = batch * SEGMENT
    plain_model = model.backbone.base

    def plain() -> None:
        with model.backbone.adapters_off():
            plain_model(text.ids_BN)

    slots_BKD = model.step(text, logits=False).slots_BKD
    state = model.step(text, logits=False).state
    stored = model.stored(state.slots_BKD, "float16")
    # What is beyond the stack's width rides along.
    stack_BKD = state.slots_BKD[..., : model.backbone.width]
    records = model.codec.recall_records(text, dequantise(stored, model.decoder.rotation_DD))

    def stack_retain() -> None:
        model.decoder.retain(model.codec.stream(text), model.decoder.project_off_share(slots_BKD), text.lengths_B)

    def stack_recall() -> None:
        model.decoder.recall(stack_BKD, text.lengths_B, SEGMENT)

    def to_ids() -> None:
        model.codec.recall(dequantise(stored, model.decoder.rotation_DD), text.lengths_B, records)

    paths: dict[str, Callable[[], Any]] = {
        "plain forward pass, with logits": plain,
        "retain, one segment, memory before it read": lambda: model.step(text, state, logits=False),
        "retain, all of it: storage, check, corrections": lambda: model.retain(rows_of_ids),
        "retain and forward likelihood in one pass": lambda: model.step(text, state, logits=True),
        "stack alone: retain": stack_retain,
        "stack alone: recall": stack_recall,
        "recall, all of it: storage to checked token ids": to_ids,
    }
    out = []
    for path, call in paths.items():
        rate = tokens / seconds(call, repeats if path.startswith(("plain", "retain")) else 5 * repeats)
        out.append(
            {"path": path, "tokens_per_second": round(rate), "relative_to_plain": 0.0, "peak_mib": round(peak_mib())}
        )
        console.print(f"{path}: {rate:,.0f} tokens/s")
    for row in out:
        row["relative_to_plain"] = row["tokens_per_second"] / out[0]["tokens_per_second"]
    return out


def length_rows(args: Any) -> list[dict[str, Any]]:
    """Peak memory of compressing texts of growing length, each in a process of its own."""
    out = []
    for length in args.length:
        command = [sys.executable, "-m", "benchmarks.systems.throughput", *sys.argv[1:], "--only-length", str(length)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        rate, peak, resident, bits = (float(x) for x in done.stdout.strip().splitlines()[-1].split())
        out.append({"path": f"compress {length:,} tokens", "tokens": length, "tokens_per_second": round(rate),
                    "peak_mib": round(peak), "resident_mib": round(resident),
                    "correction_bits_per_token": bits})  # fmt: skip
        console.print(out[-1])
    return out


def compress_one(args: Any, length: int) -> None:
    """Stream one text of a length through the model, records dropped as they come; print speed and peak memory."""
    model = build(args)
    ids = [i for d in documents(args.text[0], model.backbone, min(length, 200_000)) for i in d]
    ids = (ids * -(-length // len(ids)))[:length]
    model.hierarchy.segment_tokens = SEGMENT
    began, bits, resident = time.perf_counter(), 0, 0.0
    for _, record in model.retain_stream([ids]):
        bits += record.correction_bits
        # The peak may be that of loading the model, which would hide what compressing holds.
        resident = max(resident, resident_mib())
    print(length / (time.perf_counter() - began), peak_mib(), resident, bits / length)


def activation_rows(args: Any) -> list[dict[str, Any]]:
    """Bytes that one training step keeps for the backward pass, by number of couplings."""
    out = []
    width, ratio = 576, args.ratio[0]
    for couplings in (1, 2, 4, 8, 16):
        for invertible in (True, False):
            torch.manual_seed(args.seed)
            stack = ReversibleStack([AttentionCoupling(width, ratio) for _ in range(couplings)], invertible)
            u_BND = torch.randn(4, SEGMENT, width, requires_grad=True)
            v_BKD = torch.randn(4, slots_needed(SEGMENT, ratio), width, requires_grad=True)
            own = {p.untyped_storage().data_ptr() for p in stack.parameters()}
            kept: dict[int, int] = {}

            def pack(t: torch.Tensor, kept: dict[int, int] = kept, own: set[int] = own) -> torch.Tensor:
                storage = t.untyped_storage()
                if storage.data_ptr() not in own:
                    kept[storage.data_ptr()] = storage.nbytes()
                return t

            began = time.perf_counter()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                residual_BND, memory_BKD = stack.retain(u_BND, v_BKD, torch.full((4,), SEGMENT))
            held = sum(kept.values())
            (residual_BND.square().mean() + memory_BKD.square().mean()).backward()
            out.append({
                "couplings": couplings, "reversible": invertible,
                "activation_mib": round(held / 2**20, 2),
                "step_seconds": round(time.perf_counter() - began, 3),
            })  # fmt: skip
    return out


def main() -> None:
    """Speed, memory by length, activation memory by couplings."""
    p = parser("Speed and memory against a plain forward pass", [16])
    p.add_argument("--compressor", choices=methods(), default="virtual_tokens", help="how text becomes virtual tokens")
    p.add_argument("--batch", type=int, default=4, help=f"texts of {SEGMENT} tokens at a time")
    p.add_argument("--repeats", type=int, default=5, help="timed calls; the median counts")
    p.add_argument(
        "--length", nargs="*", type=int, default=[1_000, 10_000, 100_000], help="lengths whose peak memory is measured"
    )
    p.add_argument("--only-length", type=int, default=None, help="measure this one length and print bare numbers")
    p.add_argument(
        "--lengths-only", action="store_true", help="leave speed out: for a busy machine, where peaks still count"
    )
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to run")
    args = start(p)
    if args.only_length:
        compress_one(args, args.only_length)
        return
    rows, activation = [], []
    if not args.lengths_only:
        model = build(args)
        ids = [i for d in documents(args.text[0], model.backbone, args.batch * SEGMENT) for i in d]
        ids = (ids * -(-args.batch * SEGMENT // len(ids)))[: args.batch * SEGMENT]
        rows = speed_rows(model, ids, args)
        del model
        table("Speed, relative to a plain forward pass of the same run", rows, SPEED_COLUMNS)
        activation = activation_rows(args)
        table("Activation memory of one step of the stack", activation, list(activation[0]))
    lengths = length_rows(args)
    if lengths:
        table("Peak memory by length of the text", lengths, LENGTH_COLUMNS)
    write(args.json, args.seed, rows + lengths, activation=activation)


if __name__ == "__main__":
    run(main)
