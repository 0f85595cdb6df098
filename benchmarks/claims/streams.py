"""A stream of any length read in a state of constant size: likelihood by position, beside as many raw last tokens.

Every segment is read three times by the same model: with nothing in front, with the last raw tokens, and with
the state of everything before it. Documents of a source follow each other until there are enough tokens.

Shape legend: N tokens of a segment, K slots of the state.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from rich.progress import track

from benchmarks.parts.harness import (
    console,
    documents,
    name_of,
    parser,
    peak_mib,
    resident_mib,
    run,
    start,
    table,
    write,
)
from benchmarks.parts.reading import add_model, model_of
from r3mem import Backbone, InputError, MemoryState, R3Mem, Segments
from r3mem.compressors import SelectedKeyValues
from r3mem.objectives import forward_nll, log_likelihood

COLUMNS = ("from_position", "segments", "nll_nothing", "nll_raw_last", "nll_state", "ahead", "tokens_per_second",
           "resident_mib")  # fmt: skip
# Of a segment's positions every second one is offered to the state.
OFFERED = 2


def stream_of(path: str, backbone: Backbone, tokens: int) -> list[int]:
    """Token ids of a source's documents, one after the other.

    Raises:
        InputError: There are not so many.
    """
    ids = [token for document in documents(path, backbone, tokens) for token in document]
    if len(ids) < tokens:
        raise InputError(f"{path}: {len(ids)} tokens only; give more text or a smaller --tokens")
    return ids[:tokens]


@torch.no_grad()
def main() -> None:
    """Read the stream, print and write."""
    p = parser("Likelihood by position of a stream, state of constant size", [OFFERED])
    p.add_argument("--tokens", type=int, default=65536, help="length of the stream")
    p.add_argument("--segment", type=int, default=512, help="tokens of a segment")
    p.add_argument("--slots", type=int, default=256, help="slots of the state, and raw tokens to compare with")
    p.add_argument("--decay", type=float, default=0.5, help="factor of a slot's worth for each later segment")
    p.add_argument("--recent", type=float, default=0.125, help="share of the slots for the last positions")
    p.add_argument("--parts", type=int, default=8, help="rows of the table")
    p.add_argument("--compare-every", type=int, default=1, metavar="N", help="segments between two that are compared")
    add_model(p)
    args = start(p)
    if args.compare_every < 1:
        raise InputError("--compare-every must be at least 1")
    torch.set_flush_denormal(True)
    backbone = model_of(args).backbone
    compressor = SelectedKeyValues(backbone.width, OFFERED, max_slots=args.slots, decay=args.decay, recent=args.recent)
    model = R3Mem(backbone, compressor).eval()
    text = args.text[0]
    ids = stream_of(text, backbone, args.tokens)
    rows: list[dict[str, Any]] = []
    state: MemoryState | None = None

    def mean(read: Segments, counted: int) -> float:
        """Of the last tokens of a text, the first of them apart."""
        likelihood_B = log_likelihood(model.scores(read), read, read.ids_BN.shape[1] - counted + 1)
        return -float(likelihood_B.sum()) / (counted - 1)

    pieces = range(0, len(ids) - args.segment + 1, args.segment)
    for at in track(pieces, f"{name_of(text)}, {len(ids):,} tokens", console=console):
        piece = Segments.pad([ids[at : at + args.segment]])
        began = time.perf_counter()
        with backbone.head_apart():
            written = compressor(backbone, piece, state)
        own = MemoryState(written.slots_BKD, piece.lengths_B, OFFERED)
        before, state = state, compressor.next_state(backbone, state, own)
        if before is None or (at // args.segment) % args.compare_every:
            continue
        total, count = forward_nll(written.scores, piece, piece.lengths_B > 0)
        spent = time.perf_counter() - began
        last = Segments.pad([ids[max(0, at - args.slots) : at + args.segment]])
        rows.append({
            "position": at, "nll_nothing": mean(piece, args.segment), "nll_state": float(total / count),
            "nll_raw_last": mean(last, args.segment), "seconds": spent, "resident_mib": resident_mib(),
            "slots": int(before.mask_BK.sum()),
        })  # fmt: skip
    shown = []
    for part in range(args.parts):
        low, high = part * len(ids) // args.parts, (part + 1) * len(ids) // args.parts
        mine = [row for row in rows if low <= row["position"] < high]
        if mine:
            names = ("nll_nothing", "nll_raw_last", "nll_state")
            means = {name: sum(row[name] for row in mine) / len(mine) for name in names}
            shown.append({
                "from_position": low, "segments": len(mine), **means,
                "ahead": means["nll_raw_last"] - means["nll_state"],
                "tokens_per_second": round(len(mine) * args.segment / sum(row["seconds"] for row in mine)),
                "resident_mib": round(mine[-1]["resident_mib"]),
            })  # fmt: skip
    table(f"{name_of(text)}: state of {args.slots} slots, segments of {args.segment} tokens", shown, COLUMNS)
    write(args.json, args.seed, shown, segments=rows, slots=args.slots, peak_mib=round(peak_mib()), text=name_of(text))


if __name__ == "__main__":
    run(main)
