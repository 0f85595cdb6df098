"""How much of a history's worth a memory keeps: against nothing, the full history, and as many raw tokens.

Shape legend: B batch, N text tokens.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare.methods import has_maps, methods
from benchmarks.compare.text.likelihood import nll, parted
from benchmarks.compare.text.training import HISTORY, RAW, WINDOW, View, build, mixed, trained, views_of
from benchmarks.parts.harness import console, documents, name_of, parser, peak_mib, run, start, table, windows_of, write
from benchmarks.parts.training import Cost
from r3mem import InputError, MemoryState, R3Mem, Segments
from r3mem.objectives import forward_nll

METHODS = (RAW, "virtual_tokens", "mean_pool", "edge_pool")
COLUMNS = (
    "text", "method", "ratio", "nll_nothing", "nll_memory", "nll_last_n", "nll_full", "retained_gain", "gain_last_n",
    "train_seconds", "train_tokens",
)  # fmt: skip


@torch.no_grad()
def nll_control(model: R3Mem, ratio: int, windows: list[list[int]], other: bool, seed: int, batch: int = 8) -> float:
    """The same with a memory of the next passage (``other``), or of Gaussian noise with a real memory's spread."""
    model.set_ratio(ratio)
    total = count = 0.0
    noise = torch.Generator().manual_seed(seed)
    for i in range(0, len(windows), batch):
        ids_BN = torch.tensor(windows[i : i + batch], device=model.backbone.device)
        shifted = torch.tensor([windows[(j + 1) % len(windows)] for j in range(i, i + len(ids_BN))]).to(ids_BN)
        history = shifted[:, :HISTORY]
        lengths_B = torch.full((len(history),), HISTORY, device=history.device)
        state = model.step(Segments(history, lengths_B), logits=False).state
        if not other:
            drawn = torch.randn(state.slots_BKD.shape, generator=noise).to(state.slots_BKD)
            slots_BKD = drawn * state.slots_BKD.std((0, 1)) + state.slots_BKD.mean((0, 1))
            state = MemoryState(slots_BKD, lengths_B, ratio)
        text = Segments(ids_BN[:, HISTORY:], torch.full((len(ids_BN),), ids_BN.shape[1] - HISTORY).to(lengths_B))
        t, n = forward_nll(model.likelihood(text, state), text, text.lengths_B > 0)
        total, count = total + float(t), count + float(n)
    return total / count


@torch.no_grad()
def streaming(
    memory: R3Mem, raw: R3Mem, texts: list[list[int]], ratios: list[int], longest: int
) -> list[dict[str, Any]]:
    """NLL by position in long documents, of segments of ``HISTORY`` tokens.

    Each segment is read with the memory of all before it (``nll_memory``), with as many raw tokens as that memory has
    positions (``nll_last_n``), and with nothing.
    """
    n_segments = min(longest // HISTORY, min(len(ids) for ids in texts) // HISTORY)
    ids_BM = torch.tensor([ids[: n_segments * HISTORY] for ids in texts], device=memory.backbone.device)
    lengths_B = torch.full((len(texts),), HISTORY, device=ids_BM.device)
    everyone_B = lengths_B > 0
    pieces = [Segments(ids_BM[:, t * HISTORY : (t + 1) * HISTORY], lengths_B) for t in range(n_segments)]

    def mean(logits_BNV: torch.Tensor, text: Segments) -> float:
        total, count = forward_nll(logits_BNV, text, everyone_B)
        return float(total / count)

    nothing = [mean(raw.likelihood(text), text) for text in pieces]
    rows = []
    for ratio in ratios:
        memory.set_ratio(ratio)
        recent, state = HISTORY // ratio, None
        for t, text in enumerate(pieces):
            step = memory.step(text, state, logits=t > 0)
            state = memory.next_state(state, step.state)
            if step.logits_BNV is None:
                continue
            longer = Segments(ids_BM[:, t * HISTORY - recent : (t + 1) * HISTORY], lengths_B + recent)
            rows.append({
                "position": t * HISTORY, "ratio": ratio, "nll_nothing": nothing[t],
                "nll_memory": mean(step.logits_BNV, text),
                "nll_last_n": mean(raw.likelihood(longer)[:, recent:], text),
            })  # fmt: skip
    return rows


def main() -> None:
    """Train what has not been trained, evaluate everything on held-out text, print and write."""
    p = parser("Retained gain of a memory on held-out text", [4, 8, 16])
    p.add_argument(
        "--train",
        nargs="+",
        default=None,
        metavar="PATH",
        help="text to train on; a fifth of --text is held out if left out",
    )
    p.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        choices=[RAW, *methods()],
        help="what to train; peers and controls are faithful at --share 0",
    )
    p.add_argument("--train-tokens", type=int, default=200_000, help="tokens of windows that each method reads")
    p.add_argument("--train-only", action="store_true", help="train and save, do not evaluate")
    p.add_argument("--passages", type=int, default=24, help="held-out windows of each text")
    p.add_argument("--batch", type=int, default=4, help="windows a training step")
    p.add_argument("--lr", type=float, default=5e-4, help="highest learning rate")
    p.add_argument(
        "--write-layer",
        type=int,
        default=None,
        help="layer whose states become slots; default 0.4 of the depth",
    )
    p.add_argument(
        "--read-layer", type=int, default=None, help="layer at which a memory enters; default 0.13 of the depth"
    )
    p.add_argument("--pooled", type=float, default=0.5, help="share of the mean state in virtual tokens")
    p.add_argument("--last", type=float, default=0.75, help="share of slots for single last tokens in edge pooling")
    p.add_argument(
        "--share", type=float, default=0.25, help="exact share of a slot; 0 for memories that cannot be recalled"
    )
    p.add_argument("--stream-method", default="edge_pool", choices=methods(), help="what reads streamed documents")
    p.add_argument("--stream-tokens", type=int, default=16384, help="length of the streamed documents")
    p.add_argument("--stream-documents", type=int, default=2, help="streamed documents of each text; 0 for none")
    p.add_argument(
        "--save", type=Path, default=None, metavar="DIR", help="keep trained models here, and use those found"
    )
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to run")
    args = start(p)
    if RAW not in args.methods and not args.train_only:
        raise InputError("--methods must hold raw: nothing, full and last-n are measured with it")
    if args.passages < 2:
        raise InputError("--passages must be at least 2: the control reads the memory of another passage")

    def model_of(method: str) -> R3Mem:
        options: dict[str, Any] = {"share": args.share}
        if method != RAW and has_maps(method):
            options |= {"write_layer": args.write_layer, "read_layer": args.read_layer}
        if method == "virtual_tokens":
            options["pooled"] = args.pooled
        if method == "edge_pool":
            options["first"], options["last"] = 0.0, args.last
        return build(method, args.backbone, args.dtype, args.ratio, options).to(args.device)

    models, costs, held, long_texts = {}, {}, {}, {}
    training: list[list[int]] = []
    for method in args.methods:
        model = model_of(method)
        if not training:
            for path in args.text:
                texts = documents(path, model.backbone, 2_000_000, skip=5000, least=WINDOW)
                if args.train is None:
                    seen, texts = parted(texts)
                    training += windows_of(seen, WINDOW, 10**6)
                held[name_of(path)] = windows_of(texts, WINDOW, args.passages)
                long_texts[name_of(path)] = [ids for ids in texts if len(ids) >= args.stream_tokens][
                    : args.stream_documents
                ]
            for path in args.train or []:
                budget = 4 * args.train_tokens // len(args.train)
                training += windows_of(documents(path, model.backbone, budget, skip=5000, least=WINDOW), WINDOW, 10**6)
            console.print(f"{len(training):,} training windows; held out: { {k: len(v) for k, v in held.items()} }")
        folder = None if args.save is None else args.save / method
        costs[method] = trained(
            method,
            training,
            model,
            views_of(method, args.ratio),
            args.train_tokens,
            args.batch,
            args.lr,
            args.seed,
            folder,
        )
        models[method] = model
    if args.train_only:
        return
    rows, streams = [], []
    for text, windows in held.items():
        raw = models[RAW]
        nothing, full = nll(raw, View(0), windows), nll(raw, View(HISTORY), windows)

        gain = nothing - full
        last_n = {r: nll(raw, View(HISTORY // r), windows) for r in args.ratio}
        shared = {"text": text, "nll_nothing": nothing, "nll_full": full, "passages": len(windows)}

        def scored(ratio: int, value: float, cost: Cost, **more: Any) -> dict[str, Any]:
            kept = {"retained_gain": (nothing - value) / gain, "gain_last_n": (nothing - last_n[ratio]) / gain}  # noqa: B023
            spent = {"train_seconds": round(cost.train_seconds), "train_tokens": cost.train_tokens}
            return {
                **shared, **more, "ratio": ratio, "positions": HISTORY // ratio, "nll_memory": value,  # noqa: B023
                "nll_last_n": last_n[ratio], **kept, **spent, "parameters": cost.parameters,  # noqa: B023
                "share": args.share, **({"last": args.last} if "edge_pool" in more["method"] else {}),
            }  # fmt: skip

        for ratio in args.ratio:
            for method in [m for m in args.methods if m != RAW]:
                model, mix, cost = models[method], mixed(ratio), costs[method]
                rows.append(scored(ratio, nll(model, View(0, ratio), windows), cost, method=method))
                with_recent = nll(model, mix, windows)
                more = {"method": f"{method} + recent", "recent": mix.recent, "memory_ratio": mix.ratio}
                rows.append(scored(ratio, with_recent, cost, **more))
                if method != "mean_pool":
                    for name, other in (("another passage's memory", True), ("random memory", False)):
                        value = nll_control(model, ratio, windows, other, args.seed)
                        rows.append(scored(ratio, value, cost, method=f"{method}, {name}"))
        if args.stream_method in models and args.stream_documents and long_texts[text]:
            found = streaming(models[args.stream_method], raw, long_texts[text], args.ratio, args.stream_tokens)
            streams += [{"text": text, "method": args.stream_method, **r} for r in found]
    table("Retained gain, 256 tokens after 512 tokens of history (held out)", rows, COLUMNS)
    bounds = {r["text"]: [round(math.exp(r[k]), 1) for k in ("nll_nothing", "nll_full")] for r in rows}
    console.print(f"perplexity nothing, full: {bounds}; peak memory {peak_mib():,.0f} MiB")
    if streams:
        summary = []
        for text, ratio in dict.fromkeys((r["text"], r["ratio"]) for r in streams):
            mine = [r for r in streams if r["text"] == text and r["ratio"] == ratio]
            for low in range(0, args.stream_tokens, args.stream_tokens // 4):
                part = [r for r in mine if low <= r["position"] < low + args.stream_tokens // 4]
                if part:
                    keys = ("nll_nothing", "nll_memory", "nll_last_n")
                    means = {k: sum(r[k] for r in part) / len(part) for k in keys}
                    summary.append({"text": text, "ratio": ratio, "from_position": low, **means})
        table("Streaming: 512-token segments with the memory of all before", summary, list(summary[0]))
    curves = {m: c.curve for m, c in costs.items()}
    write(args.json, args.seed, rows, streaming=streams, curves=curves)


if __name__ == "__main__":
    run(main)
