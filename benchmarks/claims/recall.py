"""Free-running exact recall: segments that come back word for word from their virtual tokens alone.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from rich.progress import track

from benchmarks.claims.autoregressive import autoregressive_rows
from benchmarks.compare.methods import compressor_of, methods
from benchmarks.parts.harness import console, documents, name_of, parser, run, start, table, write
from benchmarks.parts.recalled import recall_row
from r3mem import Backbone, ConfigError, R3Mem, Segments
from r3mem.memory import slots_needed
from r3mem.reversible import AttentionCoupling, Coupling, PositionBinding, ReversibleStack, TransformerCoupling

SEGMENT = 256
COLUMNS = (
    "text", "ratio", "precision", "segments", "exact_match", "exact_match_corrected", "token_accuracy",
    "correction_bits_per_token", "memory_bits_per_token", "raw_id_bits_per_token",
)  # fmt: skip


def held_out_segments(path: str, model: R3Mem, most: int, seed: int) -> list[list[int]]:
    """Whole segments of a kind of text; ``random`` draws tokens uniformly from the vocabulary."""
    if path == "random":
        draw = torch.Generator().manual_seed(seed)
        return torch.randint(model.backbone.vocabulary, (most, SEGMENT), generator=draw).tolist()
    texts = documents(path, model.backbone, most * SEGMENT)
    return [ids[i : i + SEGMENT] for ids in texts for i in range(0, len(ids) - SEGMENT + 1, SEGMENT)][:most]


def inverse_rows(model: R3Mem, rows: list[list[int]], seed: int) -> list[dict[str, Any]]:
    """Relative error of the text stream after retain and recall with the residual, by precision and couplings."""
    width, ratio = model.backbone.width, model.ratio
    text = Segments.pad(rows[:4])
    torch.manual_seed(seed)
    out = []
    for kind in (PositionBinding, AttentionCoupling, TransformerCoupling):
        for count in (1, 2, 4, 8, 16):
            couplings: list[Coupling] = [kind(width, ratio) for _ in range(count)]
            for dtype in (torch.float32, torch.float64):
                stack = ReversibleStack(couplings).to(dtype).eval()
                with torch.no_grad():
                    for name, p in stack.named_parameters():
                        # Zero output projections would make the couplings identities and the test empty.
                        if p.abs().max() == 0:
                            p.normal_(
                                std=1 / math.sqrt(p.shape[-1]), generator=torch.Generator().manual_seed(len(name))
                            )
                    u_BND = model.codec.stream(text).to(dtype)
                    v_BKD = torch.randn(len(u_BND), slots_needed(u_BND.shape[1], ratio), width, dtype=dtype)
                    residual_BND, memory_BKD = stack.retain(u_BND, v_BKD, text.lengths_B)
                    back_BND, _ = stack.recall(memory_BKD, text.lengths_B, u_BND.shape[1], residual_BND)
                    moved = float((memory_BKD - v_BKD).norm() / v_BKD.norm())
                error = float((back_BND - u_BND).norm() / u_BND.norm())
                out.append({
                    "coupling": kind.__name__, "couplings": count, "dtype": str(dtype).removeprefix("torch."),
                    "relative_error": f"{error:.1e}", "memory_moved": moved,
                })  # fmt: skip
    return out


def main() -> None:
    """Every text at the first ratio in both precisions, the curve over the others, the inverse, the trained decoder."""
    p = parser("Free-running exact match of recalled segments", [16, 8, 32, 64, 128])
    p.add_argument("--compressor", choices=methods(), default="mean_pool", help="what words share their slots with")
    p.add_argument("--segments", type=int, default=256, help=f"segments of {SEGMENT} tokens of each text")
    p.add_argument("--curve-segments", type=int, default=32, help="segments of each text at the other ratios")
    p.add_argument(
        "--decoder-tokens", type=int, default=0, help="tokens to train the autoregressive decoder on; 0 leaves it out"
    )
    args = start(p)
    backbone = Backbone(args.backbone, args.dtype, lora_rank=0)
    first = args.ratio[0]
    model = R3Mem(backbone, compressor_of(args.compressor, backbone, first))
    model.calibrate(segments=16)
    rows: list[dict[str, Any]] = []
    for path in track([*args.text, *([] if "random" in args.text else ["random"])], "recall", console=console):
        text = name_of(path)
        kept = held_out_segments(path, model, args.segments, args.seed)
        for ratio in args.ratio:
            try:
                model.set_ratio(ratio)
            except ConfigError as error:
                console.print(f"ratio {ratio}: {error}")
                continue
            for precision in ("float16", "int8"):
                rows.append(recall_row(model, text, kept if ratio == first else kept[: args.curve_segments], precision))
    table(f"Recall of {SEGMENT}-token segments", rows, COLUMNS)
    model.set_ratio(first)
    inverse = inverse_rows(model, held_out_segments("random", model, 4, args.seed), args.seed)
    table("Inverse with residual", inverse, ("coupling", "couplings", "dtype", "relative_error", "memory_moved"))
    decoder = []
    if args.decoder_tokens:
        decoder = autoregressive_rows(args, first)
        table("A trained autoregressive decoder (the ICAE way), same ratio", decoder, list(decoder[0]))
    write(args.json, args.seed, rows, inverse=inverse, autoregressive=decoder)


if __name__ == "__main__":
    run(main)
