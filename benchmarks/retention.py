"""What a memory is worth to a reader: share of the full history's gain that is kept, beside as many raw tokens.

Every row of a table is read by the same model. ``gain`` is ``(NLL nothing - NLL memory) / (NLL nothing - NLL full)``
of the tokens after a history, over all windows; intervals are bootstrapped over windows.

Shape legend: B batch, N tokens of a history, K positions that a reader reads instead of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import console, name_of, parser, peak_mib, run, start, table, windows_of, write
from rich.progress import track
from torch import Tensor

from datamodules.sources import ReadingOptions, open_source
from r3mem import Backbone, InputError, MemoryState, R3Mem, Segments
from r3mem.compressors import SelectedKeyValues
from r3mem.compressors.scorers import (
    AttentionReceived,
    BenefitWeightedAttention,
    DistantAttention,
    FutureAttention,
    RandomScores,
    Recency,
    Scorer,
    SumOfScorers,
)
from r3mem.compressors.scorers.benefit_weighted import next_nll
from r3mem.next_tokens import Scores
from r3mem.reversible.quantise import Precision, dequantise
from r3mem.text_ids import text_ids

CONTINUATION, SKIPPED_CHARACTERS, RESAMPLED = 256, 5000, 2000
ONE_PASS, TWO_PASSES, ORACLE = "selected (1 pass)", "selected (2 passes)", "oracle"
COLUMNS = (
    "text", "history", "method", "ratio", "positions", "gain", "gain_low", "gain_high", "ahead", "ahead_low", "nll",
    "windows",
)  # fmt: skip


def one_pass() -> Scorer:
    """The default of a single pass."""
    return SumOfScorers([AttentionReceived(), DistantAttention()])


def two_passes() -> Scorer:
    """The default of two passes: attention received and benefit-weighted distant attention."""
    return SumOfScorers([AttentionReceived(), BenefitWeightedAttention()])


#: Scorers by name: what is measured of a history that is read in one pass.
SCORERS: dict[str, Callable[[], Scorer]] = {
    ONE_PASS: one_pass,
    TWO_PASSES: two_passes,
    "attention received": AttentionReceived,
    "distant attention": DistantAttention,
    "sinks and last": Recency,
    "random": RandomScores,
}


def windows_of_source(path: str, backbone: Backbone, size: int, most: int) -> list[list[int]]:
    """Windows without overlap of a source's documents, as many documents as there are, each in turn.

    Raises:
        InputError: No document is long enough.
    """
    documents: list[list[int]] = []
    for document in open_source(path, ReadingOptions()).documents():
        text = document.text
        text = text[SKIPPED_CHARACTERS:] if len(text) > 2 * SKIPPED_CHARACTERS else text
        # No tokenizer makes less than a token of eight characters of prose.
        ids = text_ids(text[: 8 * size * most], backbone.tokenizer)
        if len(ids) >= size:
            documents.append(list(ids))
        if len(documents) == most:
            break
    if not documents:
        raise InputError(f"{path}: no document of at least {size} tokens; give longer texts or a shorter --history")
    return windows_of(documents, size, most)


@dataclass
class Measured:
    """NLL of every window's continuation by what was read before it.

    Attributes:
        nll: By method and positions; one number a window, nats a token.
    """

    nll: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def add(self, method: str, positions: int, nll: float) -> None:
        """One more window."""
        self.nll.setdefault((method, positions), []).append(nll)

    def rows(self, seed: int) -> Iterator[dict[str, Any]]:
        """Gains with intervals, and how far each is ahead of as many raw last tokens, window by window."""
        nothing, full = (np.array(self.nll[name, 0]) for name in ("nothing", "full"))
        drawn = np.random.default_rng(seed).integers(0, len(nothing), (RESAMPLED, len(nothing)))

        def gain(values: Any, order: Any = slice(None)) -> Any:
            whole = nothing[order].mean(-1) - full[order].mean(-1)
            return (nothing[order].mean(-1) - values[order].mean(-1)) / whole

        for (method, positions), listed in self.nll.items():
            values = np.array(listed)
            row: dict[str, Any] = {"method": method, "positions": positions, "nll": float(values.mean())}
            spread = gain(values, drawn)
            row |= {"gain": float(gain(values)), "gain_low": float(np.quantile(spread, 0.025))}
            row["gain_high"] = float(np.quantile(spread, 0.975))
            if ("raw last", positions) in self.nll:
                raw = np.array(self.nll["raw last", positions])
                apart = spread - gain(raw, drawn)
                row |= {"ahead": row["gain"] - float(gain(raw)), "ahead_low": float(np.quantile(apart, 0.025))}
                row["ahead_high"] = float(np.quantile(apart, 0.975))
            yield {**row, "windows": len(values), "nll_by_window": [round(v, 4) for v in listed]}


class Reader:
    """The model that reads everything, and what it reads."""

    def __init__(self, model: R3Mem) -> None:
        self.model, self.backbone = model, model.backbone

    @torch.no_grad()
    def after(self, continuation_N: Tensor, memories: Sequence[MemoryState]) -> list[float]:
        """Mean NLL of the continuation after each of some memories of one width, nats a token."""
        state = MemoryState.stacked(memories)
        text = Segments.whole(continuation_N.expand(len(memories), -1))
        return self._means(self.model.scores(text, state), text, 0)

    @torch.no_grad()
    def after_text(self, ids_N: Tensor, counted: int) -> float:
        """Mean NLL of the last ``counted`` tokens of a text but their first, nats a token."""
        text = Segments.whole(ids_N[None])
        with self.backbone.head_apart():
            scores = self.backbone(text).scores
        return self._means(scores, text, len(ids_N) - counted)[0]

    @staticmethod
    def _means(scores: Scores, text: Segments, first: int) -> list[float]:
        """Of a continuation the first token does not count: with nothing before it, nothing predicts it."""
        return [float(row_N.mean()) for row_N in next_nll(scores, text)[:, first:-1]]


class Bench:
    """One history length.

    Args:
        reader: The model.
        history: N.
        ratios: Text tokens per position.
        methods: Names of `SCORERS`.
        segment: Tokens of a segment where the history is streamed at constant state.
        streamed: Ratios at which it is.
        precisions: How the default memory is stored, with words in it, for one more row each.
    """

    def __init__(
        self, reader: Reader, history: int, ratios: list[int], methods: list[str], segment: int,
        streamed: list[int], precisions: list[Precision],
    ) -> None:  # fmt: skip
        self.reader, self.history, self.ratios, self.methods = reader, history, ratios, methods
        self.segment, self.streamed, self.precisions = segment, streamed, precisions
        self.scorers = {name: SCORERS[name]() for name in methods}
        self.seconds: dict[str, float] = {}

    @torch.no_grad()
    def window(self, ids: list[int], other: list[int], measured: Measured) -> None:
        """Measure one window; ``other`` is another passage of the same text."""
        reader, ids_N = self.reader, torch.tensor(ids, device=self.reader.backbone.device)
        history_N, continuation_N = ids_N[: self.history], ids_N[self.history :]
        measured.add("nothing", 0, reader.after_text(continuation_N, CONTINUATION))
        measured.add("full", 0, self._timed("read the full history", reader.after_text, ids_N, CONTINUATION))
        memories = self._selected(history_N)
        memories |= self._oracle(ids_N)
        first = self.methods[0]
        of_other = self._selected(torch.tensor(other[: self.history], device=ids_N.device), [first])
        memories |= {(f"{first}, another passage's", r): s for (_, r), s in of_other.items()}
        for ratio in self.ratios:
            n_slots = self.history // ratio
            named = {name: state for (name, r), state in memories.items() if r == ratio}
            named |= self._stored(Segments.whole(history_N[None]), named[first])
            if self.history > self.segment and ratio in self.streamed:
                named["selected, streamed"] = self._streamed(history_N, ratio)
            for name, value in zip(
                named, self._timed("read memories", reader.after, continuation_N, list(named.values())), strict=True
            ):
                measured.add(name, n_slots, value)
            last_N, first_N = history_N[-n_slots:], history_N[:n_slots]
            measured.add("raw last", n_slots, reader.after_text(torch.cat([last_N, continuation_N]), CONTINUATION))
            measured.add("raw first", n_slots, reader.after_text(torch.cat([first_N, continuation_N]), CONTINUATION))

    def _selected(self, history_N: Tensor, methods: list[str] | None = None) -> dict[tuple[str, int], MemoryState]:
        """Memories of a history by method and ratio: one pass, a score each."""
        scorers = {name: self.scorers[name] for name in methods or self.methods}
        text, logits = Segments.whole(history_N[None]), any(s.needs_logits for s in scorers.values())
        backbone, found = self.reader.backbone, {}
        with backbone.head_apart():
            observed = self._timed("write: the pass", backbone, text, None, logits=logits, observe=True).attention
            scored = {name: self._timed(f"write: {name}", scorer, observed) for name, scorer in scorers.items()}
        for name, scores in scored.items():
            for ratio in self.ratios:
                slots_BKW = self._compressor(ratio).select(backbone, observed, scores)
                found[name, ratio] = MemoryState(slots_BKW, text.lengths_B, ratio)
        return found

    def _oracle(self, ids_N: Tensor) -> dict[tuple[str, int], MemoryState]:
        """The same, chosen by what the continuation attends to."""
        text, scorer = Segments.whole(ids_N[None]), FutureAttention(CONTINUATION)
        observed = self.reader.backbone(text, None, logits=False, observe=True).attention
        scores, found = scorer(observed), {}
        for ratio in self.ratios:
            compressor, n_slots = SelectedKeyValues(self.reader.backbone.width, ratio, scorer), self.history // ratio
            # The text with its continuation has more slots than the history alone.
            compressor.ratio = math.ceil(len(ids_N) / n_slots)
            slots_BKW = compressor.select(self.reader.backbone, observed, scores)[:, :n_slots]
            found[ORACLE, ratio] = MemoryState(slots_BKW, text.lengths_B * 0 + n_slots * ratio, ratio)
        return found

    def _streamed(self, history_N: Tensor, ratio: int) -> MemoryState:
        """The state of constant size after the history in segments."""
        n_slots, state = self.history // ratio, None
        # Segments offer half of their positions to the competition.
        compressor = SelectedKeyValues(self.reader.backbone.width, 2, self.scorers[self.methods[0]], max_slots=n_slots)
        for piece_N in history_N.split(self.segment):
            text = Segments.whole(piece_N[None])
            written = compressor(self.reader.backbone, text, state, logits=False)
            state = compressor.next_state(
                self.reader.backbone, state, MemoryState(written.slots_BKD, text.lengths_B, 2)
            )
        assert state is not None
        return MemoryState(state.slots_BKD, state.lengths_B * 0 + n_slots * ratio, ratio)

    def _stored(self, text: Segments, state: MemoryState) -> dict[str, MemoryState]:
        """The memory with words in it, as it comes back from storage."""
        if not self.precisions:
            return {}
        model, found = self.reader.model, {}
        model.set_ratio(state.ratio)
        with_words = model.bind(text, state.slots_BKD).state
        for precision in self.precisions:
            slots_BKW = dequantise(model.stored(with_words.slots_BKD, precision), model.decoder.rotation_DD)
            found[f"with words, {precision}"] = MemoryState(slots_BKW, state.lengths_B, state.ratio)
        return found

    def _compressor(self, ratio: int) -> SelectedKeyValues:
        return SelectedKeyValues(self.reader.backbone.width, ratio, self.scorers[self.methods[0]])

    def _timed(self, name: str, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        began = time.perf_counter()
        made = call(*args, **options)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        return made


def main() -> None:
    """Measure, print and write."""
    p = parser("Share of a history's gain that a memory keeps, beside as many raw tokens", [4, 8, 16, 32, 64])
    p.add_argument("--history", nargs="+", type=int, default=[512, 2048], metavar="N", help="tokens of a history")
    p.add_argument("--windows", type=int, default=24, help="windows of each text and history")
    p.add_argument("--methods", nargs="+", default=list(SCORERS), choices=list(SCORERS), help="the first is ours")
    p.add_argument("--segment", type=int, default=512, help="tokens of a segment where a history is streamed")
    p.add_argument("--stream-ratio", nargs="*", type=int, default=[8, 32], metavar="R", help="of streamed states")
    p.add_argument("--precision", nargs="*", default=["float16", "int8"], help="of memories with words in them")
    p.add_argument("--model", type=Path, default=None, metavar="DIR", help="a saved model, whose adapters then read")
    args = start(p)
    if args.windows < 2:
        raise InputError("--windows must be at least 2: the control reads the memory of another passage")
    torch.set_flush_denormal(True)
    if args.model is not None:
        model = R3Mem.from_pretrained(args.model)
    else:
        backbone = Backbone(args.backbone, args.dtype, lora_rank=0)
        model = R3Mem(backbone, SelectedKeyValues(backbone.width, max(args.ratio)))
    reader = Reader(model.eval())
    rows: list[dict[str, Any]] = []
    spent = {}
    for history in args.history:
        bench = Bench(reader, history, args.ratio, args.methods, args.segment, args.stream_ratio, args.precision)
        for path in args.text:
            windows, measured = (
                windows_of_source(path, reader.backbone, history + CONTINUATION, args.windows),
                Measured(),
            )
            for i in track(range(len(windows)), f"{name_of(path)}, {history}", console=console):
                bench.window(windows[i], windows[(i + 1) % len(windows)], measured)
            named = {"text": name_of(path), "history": history}
            new = [{**named, "ratio": history // max(1, r["positions"]), **r} for r in measured.rows(args.seed)]
            table(f"{name_of(path)}, {history} tokens of history", new, COLUMNS)
            rows += new
            spent[str(history)] = {name: round(s, 1) for name, s in bench.seconds.items()}
            write(args.json, args.seed, rows, seconds=spent, peak_mib=round(peak_mib()))


if __name__ == "__main__":
    run(main)
