"""What a memory is worth to a reader: share of the full history's gain that is kept, beside as many raw tokens.

Every row of a table is read by the same model. ``gain`` is ``(NLL nothing - NLL memory) / (NLL nothing - NLL full)``
of the tokens after a history, over all windows; intervals are bootstrapped over windows.

Shape legend: B batch, N tokens of a history, K positions that a reader reads instead of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from benchmarks.parts.gains import FULL, NOTHING, Measured
from benchmarks.parts.harness import (
    Stopwatch,
    console,
    documents,
    name_of,
    parser,
    peak_mib,
    run,
    start,
    table,
    windows_of,
    write,
)
from benchmarks.parts.reading import Reader, add_model, model_of
from benchmarks.parts.selection import SCORERS, Selection
from r3mem import InputError, MemoryState, Segments
from r3mem.compressors import SelectedKeyValues
from r3mem.compressors.scorers import FutureAttention
from r3mem.memory.quantise import Precision, dequantise

CONTINUATION, SKIPPED_CHARACTERS = 256, 5000
# The first token does not count: with nothing before it, nothing predicts it.
COUNTED = CONTINUATION - 1
ORACLE, CHOSEN_AGAIN = "oracle", "selected, chosen again"
COLUMNS = (
    "text", "history", "method", "ratio", "positions", "gain", "gain_low", "gain_high", "ahead", "ahead_low", "nll",
    "windows",
)  # fmt: skip


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
        chosen_every: Tokens after which the slots that are read are chosen again, of the memory of the smallest ratio,
            by as many words before; 0 for no such row.
    """

    def __init__(
        self, reader: Reader, history: int, ratios: list[int], methods: list[str], segment: int,
        streamed: list[int], precisions: list[Precision], chosen_every: int,
    ) -> None:  # fmt: skip
        self.reader, self.history, self.ratios = reader, history, ratios
        self.segment, self.streamed, self.precisions, self.chosen_every = segment, streamed, precisions, chosen_every
        self.stopwatch = Stopwatch()
        self.selection = Selection(reader.backbone, ratios, methods, self.stopwatch)

    @torch.no_grad()
    def window(self, ids: list[int], other: list[int], measured: Measured) -> None:
        """Measure one window; ``other`` is another passage of the same text."""
        reader, ids_N = self.reader, torch.tensor(ids, device=self.reader.backbone.device)
        history_N, continuation_N = ids_N[: self.history], ids_N[self.history :]
        measured.add(NOTHING, 0, reader.after_text(continuation_N, COUNTED))
        measured.add(FULL, 0, self.stopwatch("read the full history", reader.after_text, ids_N, COUNTED))
        memories = self.selection.memories(history_N)
        memories |= self._oracle(ids_N)
        first = self.selection.ours
        of_other = self.selection.memories(torch.tensor(other[: self.history], device=ids_N.device), [first])
        memories |= {(f"{first}, another passage's", r): s for (_, r), s in of_other.items()}
        finest = memories[first, min(self.ratios)]
        for ratio in self.ratios:
            n_slots = self.history // ratio
            if self.chosen_every and ratio > finest.ratio:
                value = self.stopwatch("choose again and read", self._chosen_again, ids_N, finest, n_slots)
                measured.add(CHOSEN_AGAIN, n_slots, value)
            named = {name: state for (name, r), state in memories.items() if r == ratio}
            named |= self._stored(Segments.whole(history_N[None]), named[first])
            if self.history > self.segment and ratio in self.streamed:
                named["selected, streamed"] = self._streamed(history_N, ratio)
            states = list(named.values())
            found = self.stopwatch("read memories", reader.after, continuation_N, states, COUNTED)
            for name, value in zip(named, found, strict=True):
                measured.add(name, n_slots, value)
            last_N, first_N = history_N[-n_slots:], history_N[:n_slots]
            measured.add("raw last", n_slots, reader.after_text(torch.cat([last_N, continuation_N]), COUNTED))
            measured.add("raw first", n_slots, reader.after_text(torch.cat([first_N, continuation_N]), COUNTED))

    def _oracle(self, ids_N: Tensor) -> dict[tuple[str, int], MemoryState]:
        """The same, chosen by what the continuation attends to."""
        text, scorer = Segments.whole(ids_N[None]), FutureAttention(CONTINUATION)
        observed = self.reader.backbone(text, None, logits=False, observe=True).attention
        scores, found = scorer(observed), {}
        for ratio in self.ratios:
            compressor = SelectedKeyValues(self.reader.backbone.width, ratio, scorer, recent=0.0)
            n_slots = self.history // ratio
            # The text with its continuation has more slots than the history alone.
            compressor.ratio = math.ceil(len(ids_N) / n_slots)
            slots_BKW = compressor.select(self.reader.backbone, observed, scores)[:, :n_slots]
            # Where the lengths do not divide, it has fewer slots than the others.
            found[ORACLE, ratio] = MemoryState(slots_BKW, text.lengths_B * 0 + slots_BKW.shape[1] * ratio, ratio)
        return found

    def _streamed(self, history_N: Tensor, ratio: int) -> MemoryState:
        """The state of constant size after the history in segments."""
        n_slots, state = self.history // ratio, None
        # Segments offer half of their positions to the competition.
        scorer = self.selection.scorers[self.selection.ours]
        compressor = SelectedKeyValues(self.reader.backbone.width, 2, scorer, max_slots=n_slots)
        for piece_N in history_N.split(self.segment):
            text = Segments.whole(piece_N[None])
            written = compressor(self.reader.backbone, text, state, logits=False)
            state = compressor.next_state(
                self.reader.backbone, state, MemoryState(written.slots_BKD, text.lengths_B, 2)
            )
        assert state is not None
        return MemoryState(state.slots_BKD, state.lengths_B * 0 + n_slots * ratio, ratio)

    def _chosen_again(self, ids_N: Tensor, memory: MemoryState, n_slots: int) -> float:
        """NLL of a continuation, each part of which reads the slots that the words before it attend to most."""
        reader, every, total = self.reader, self.chosen_every, 0.0
        compressor = self.selection.compressor(memory.ratio)
        for at in range(self.history, len(ids_N), every):
            asked = Segments.whole(ids_N[None, at - every : at])
            chosen = compressor.choose(reader.backbone, memory, asked, n_slots)
            read_N = ids_N[self.history : min(at + every, len(ids_N))]
            # A part is scored from its first token on; of all the first does not count.
            counted = len(read_N) - max(at - self.history, 1)
            total += counted * reader.after(read_N, [chosen], counted)[0]
        return total / COUNTED

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


def main() -> None:
    """Measure, print and write."""
    p = parser("Share of a history's gain that a memory keeps, beside as many raw tokens", [4, 8, 16, 32, 64])
    p.add_argument("--history", nargs="+", type=int, default=[512, 2048], metavar="N", help="tokens of a history")
    p.add_argument("--windows", type=int, default=24, help="windows of each text and history")
    p.add_argument("--methods", nargs="+", default=list(SCORERS), choices=list(SCORERS), help="the first is ours")
    p.add_argument("--segment", type=int, default=512, help="tokens of a segment where a history is streamed")
    p.add_argument("--stream-ratio", nargs="*", type=int, default=[8, 32], metavar="R", help="of streamed states")
    p.add_argument("--precision", nargs="*", default=["float16", "int8"], help="of memories with words in them")
    p.add_argument("--choose-every", type=int, default=0, metavar="N", help="tokens between second choices; 0: none")
    add_model(p)
    args = start(p)
    if args.windows < 2:
        raise InputError("--windows must be at least 2: the control reads the memory of another passage")
    torch.set_flush_denormal(True)
    reader = Reader(model_of(args))
    rows: list[dict[str, Any]] = []
    spent = {}
    for history in args.history:
        bench = Bench(
            reader, history, args.ratio, args.methods, args.segment, args.stream_ratio, args.precision,
            args.choose_every,
        )  # fmt: skip
        for path in args.text:
            size = history + CONTINUATION
            texts = documents(path, reader.backbone, size * args.windows, SKIPPED_CHARACTERS, size, args.windows)
            windows = windows_of(texts, size, args.windows)
            measured = Measured("window", "positions", {"raw last": "ahead"})
            for i in track(range(len(windows)), f"{name_of(path)}, {history}", console=console):
                bench.window(windows[i], windows[(i + 1) % len(windows)], measured)
            named = {"text": name_of(path), "history": history}
            new = [{**named, "ratio": history // max(1, r["positions"]), **r} for r in measured.rows(args.seed)]
            table(f"{name_of(path)}, {history} tokens of history", new, COLUMNS)
            rows += new
            spent[str(history)] = {name: round(s, 1) for name, s in bench.stopwatch.seconds.items()}
            write(args.json, args.seed, rows, seconds=spent, peak_mib=round(peak_mib()))


if __name__ == "__main__":
    run(main)
