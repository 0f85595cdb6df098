"""Short documents packed against padded, in turns in one run: speed, padding, what is kept for the backward pass."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.parts.harness import console, documents, parser, run, start, table, timed, write
from r3mem import Backbone, R3Mem, Segments
from r3mem.compressors import VirtualTokens
from r3mem.objectives import forward_nll
from r3mem.reversible import PositionBinding, ReversibleStack

COLUMNS = ("path", "layout", "packed_rows", "width", "padding", "tokens_per_second", "activation_mib")
RATIO_COLUMNS = ("path", "tokens_per_second", "activation_mib")


def short_documents(ids: list[int], number: int, shortest: int, longest: int, seed: int) -> list[list[int]]:
    """Pieces of a text whose lengths are spread evenly over their logarithm; the longest is one of them."""
    draw = random.Random(seed)
    lengths = [round(shortest * (longest / shortest) ** draw.random()) for _ in range(number - 1)] + [longest]
    starts = [draw.randrange(max(1, len(ids) - n)) for n in lengths]
    return [ids[i : i + n] for i, n in zip(starts, lengths, strict=True)]


def activation_mib(call: Callable[[], torch.Tensor], model: R3Mem) -> float:
    """What autograd keeps of a loss for its backward pass, weights left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = call()  # Held, so that no storage is freed and another one counted at its address.
    held = sum(kept.values())
    del loss
    return held / 2**20


def first_layer(model: R3Mem, call: Callable[[], Any]) -> tuple[int, int]:
    """Rows and positions of the pass that a call makes."""
    seen: list[torch.Size] = []
    handle = model.backbone.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).shape), with_kwargs=True
    )
    call()
    handle.remove()
    return seen[0][0], seen[0][1]


def main() -> None:
    """Every path padded and packed, in turns."""
    p = parser("Packing of short documents", [16])
    p.add_argument("--documents", type=int, default=8, help="short documents in one batch")
    p.add_argument("--shortest", type=int, default=8, help="tokens of the shortest")
    p.add_argument("--longest", type=int, default=192, help="tokens of the longest")
    p.add_argument("--pack", type=int, default=None, help="longest packed row in positions; the padded one if left out")
    p.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa", help="attention path of transformers")
    p.add_argument("--repeats", type=int, default=3, help="timed calls of each; the median counts")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to run")
    args = start(p)
    backbone = Backbone(args.backbone, args.dtype, attn_implementation=args.attention)
    ratio, depth = args.ratio[0], len(backbone.layers)
    compressor = VirtualTokens(backbone.width, ratio, write_layer=max(1, depth * 2 // 5), read_layer=depth // 8)
    stack = ReversibleStack([PositionBinding(backbone.width, ratio)])
    model = R3Mem(backbone, compressor, stack).to(args.device).eval()
    ids = [i for d in documents(args.text[0], backbone, 20 * args.longest) for i in d]
    rows = short_documents(ids, args.documents, args.shortest, args.longest, args.seed)
    text = Segments.pad(rows, backbone.device)
    tokens = int(text.lengths_B.sum())
    with torch.no_grad():
        state = model.step(text, logits=False).state
        model.step(text, state)  # The first likelihood looks at the head in a pass of its own.
    slots, prefix = int(compressor.slot_mask(text).sum()), int(compressor.read(state).mask_BP.sum())

    def likelihood() -> torch.Tensor:
        total, count = forward_nll(backbone(text).logits_BNV, text, text.lengths_B > 0)
        return total / count

    def read_and_write() -> torch.Tensor:
        step = model.step(text, state)
        total, count = forward_nll(step.scores, text, text.lengths_B > 0)
        return total / count + step.state.slots_BKD.square().mean()

    def stepped(loss: Callable[[], torch.Tensor]) -> None:
        loss().backward()
        model.zero_grad()

    paths: dict[str, tuple[Callable[[], torch.Tensor], bool, int]] = {
        "likelihood": (likelihood, False, tokens),
        "training step, likelihood": (likelihood, True, tokens),
        "training step, memory read and written": (read_and_write, True, tokens + slots + prefix),
    }
    found: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    for path, (loss, trains, used) in paths.items():

        def call(loss: Callable[[], torch.Tensor] = loss, trains: bool = trains) -> None:
            with torch.set_grad_enabled(trains):
                stepped(loss) if trains else loss()

        shapes, seconds, kept = {}, {"padded": [], "packed": []}, {}
        for layout in seconds:
            backbone.pack = None if layout == "padded" else args.pack or shapes["padded"][1]
            shapes[layout] = first_layer(model, call)
            kept[layout] = activation_mib(loss, model) if trains else None
        pack = args.pack or shapes["padded"][1]
        for _ in range(args.repeats):
            for layout, times in seconds.items():
                backbone.pack = None if layout == "padded" else pack
                times.append(timed(call))
        for layout, times in seconds.items():
            n_rows, width = shapes[layout]
            found.append({
                "path": path, "layout": layout, "packed_rows": n_rows, "width": width,
                "padding": 1 - used / (n_rows * width),
                "tokens_per_second": round(tokens / sorted(times)[len(times) // 2], 1),
                "activation_mib": None if kept[layout] is None else round(kept[layout], 1),
            })  # fmt: skip
        padded, packed = found[-2:]
        ratios.append({
            "path": path, "tokens_per_second": packed["tokens_per_second"] / padded["tokens_per_second"],
            "activation_mib": packed["activation_mib"] / padded["activation_mib"] if trains else None,
        })  # fmt: skip
        console.print(f"{path}: {ratios[-1]['tokens_per_second']:.2f} times the tokens a second")
    table(f"{len(rows)} documents, {tokens} tokens, {args.attention} attention", found, COLUMNS)
    table("Packed relative to padded", ratios, RATIO_COLUMNS)
    write(args.json, args.seed, found, ratios=ratios, lengths=text.lengths_B.tolist(), attention=args.attention)


if __name__ == "__main__":
    run(main)
