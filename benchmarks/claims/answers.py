"""How likely gold answers are behind a memory of their context, beside as many raw tokens and BM25's best sentences.

Every row of a table is read by the same model: what the row says, then the same question and ``Answer:``, then the
gold answer, whose NLL is counted in nats a token. ``gained`` is ``NLL nothing - NLL row``; ``gain`` is its share of
``NLL nothing - NLL full text``, over all questions; intervals are bootstrapped over questions. ``ahead`` is the gain
beyond that of as many raw last tokens, ``ahead of BM25`` beyond that of as many tokens of BM25's best sentences.

Shape legend: N tokens of a context, Q tokens of a prompt, A tokens of an answer, K positions read instead of N.
"""

from __future__ import annotations

from typing import Any

import torch
from rich.progress import track

from benchmarks.parts.asked import Asked, draw
from benchmarks.parts.gains import FULL, NOTHING, Measured
from benchmarks.parts.harness import Stopwatch, console, name_of, parser, peak_mib, run, start, table, write
from benchmarks.parts.questions import ANSWER_FILES, data_files
from benchmarks.parts.reading import Reader, add_model, model_of
from benchmarks.parts.selection import SCORERS, Selection
from r3mem import InputError, MemoryState, Segments
from r3mem.memory import slots_needed

RAW_LAST, RAW_FIRST, SENTENCES = "raw last", "raw first", "BM25 sentences"
CHOSEN, OTHER = "{}, chosen by the question", "{}, another question's"
COLUMNS = (
    "text", "method", "ratio", "positions", "nll", "gained", "gain", "gain_low", "gain_high", "ahead", "ahead_low",
    "ahead_of_bm25", "ahead_of_bm25_low",
)  # fmt: skip


class Bench:
    """The questions of one text.

    Args:
        reader: The model.
        ratios: Context tokens per position.
        methods: Names of `SCORERS`; the first is ours.
    """

    def __init__(self, reader: Reader, ratios: list[int], methods: list[str]) -> None:
        self.reader, self.ratios = reader, sorted(ratios)
        self.stopwatch = Stopwatch()
        self.selection = Selection(reader.backbone, self.ratios, methods, self.stopwatch)
        self.measured = Measured("question", "ratio", {RAW_LAST: "ahead", SENTENCES: "ahead_of_bm25"})
        self.positions: dict[tuple[str, int], list[int]] = {}

    @torch.no_grad()
    def measure(self, questions: list[Asked], title: str) -> None:
        """Measure all questions; the control reads the memory of the question before."""
        ours = self.selection.ours
        before = self.selection.memories(questions[-1].context_N.to(self.reader.backbone.device), [ours])
        for question in track(questions, title, console=console):
            before = self._question(question, {ratio: before[ours, ratio] for ratio in self.ratios})

    def _question(self, asked: Asked, others: dict[int, MemoryState]) -> dict[tuple[str, int], MemoryState]:
        """Measure one; gives its memories."""
        device, n_answer = self.reader.backbone.device, len(asked.answer_A)
        context_N, prompt_Q = asked.context_N.to(device), asked.prompt_Q.to(device)
        asked_N = torch.cat([prompt_Q, asked.answer_A.to(device)])
        ours, (finest, *_) = self.selection.ours, self.ratios
        memories = self.selection.memories(context_N)
        texts = {(NOTHING, 0): context_N[:0], (FULL, 0): context_N}
        for ratio in self.ratios:
            n_slots = slots_needed(len(context_N), ratio)
            states = {name: state for (name, r), state in memories.items() if r == ratio}
            if ratio > finest:
                states[CHOSEN.format(ours)] = self._chosen(memories[ours, finest], prompt_Q, ratio, n_slots)
            states[OTHER.format(ours)] = others[ratio]
            found = self.stopwatch("read memories", self.reader.after, asked_N, list(states.values()), n_answer)
            for (name, state), nll in zip(states.items(), found, strict=True):
                self._add(name, ratio, int(state.mask_BK.sum()), nll)
            texts |= {(RAW_LAST, ratio): context_N[-n_slots:], (RAW_FIRST, ratio): context_N[:n_slots]}
            texts[SENTENCES, ratio] = asked.best_sentences(n_slots).to(device)
        for (name, ratio), text_K in texts.items():
            self._add(name, ratio, len(text_K), self.reader.after_text(torch.cat([text_K, asked_N]), n_answer))
        return memories

    def _chosen(self, memory: MemoryState, prompt_Q: torch.Tensor, ratio: int, n_slots: int) -> MemoryState:
        """Of a finer memory as many slots as a ratio has, those that the question attends to."""
        query = Segments.whole(prompt_Q[None])
        chosen = self.selection.compressor(memory.ratio).choose(self.reader.backbone, memory, query, n_slots)
        return MemoryState(chosen.slots_BKD, chosen.lengths_B // memory.ratio * ratio, ratio)

    def _add(self, method: str, ratio: int, positions: int, nll: float) -> None:
        self.measured.add(method, ratio, nll)
        self.positions.setdefault((method, ratio), []).append(positions)

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """A row for each method and ratio, in the order of the ratios."""
        found = []
        for row in sorted(self.measured.rows(seed), key=lambda row: int(row["ratio"])):
            positions = self.positions[row["method"], row["ratio"]]
            found.append({**row, "ratio": row["ratio"] or None, "positions": sum(positions) / len(positions)})
        return found


def main() -> None:
    """Measure, print and write."""
    p = parser("NLL of gold answers behind memories of their contexts, beside as many raw tokens", [4, 8, 16])
    p.set_defaults(text=None)
    p.add_argument("--questions", type=int, default=100, help="questions of each text, each with its own context")
    p.add_argument(
        "--context", type=int, default=1024, metavar="N", help="tokens of a context at most: beyond, paragraphs that "
        "support no answer are left out, and questions whose support is longer are passed over",
    )  # fmt: skip
    p.add_argument("--methods", nargs="+", default=list(SCORERS), choices=list(SCORERS), help="the first is ours")
    add_model(p)
    args = start(p)
    if args.questions < 2 or args.context < 1 or min(args.ratio) < 1:
        raise InputError("--questions must be at least 2 (a control reads another's memory), --context and --ratio 1")
    torch.set_flush_denormal(True)
    reader = Reader(model_of(args))
    rows: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for path in args.text or data_files(ANSWER_FILES):
        name = name_of(path)
        drawn = draw(path, reader.backbone.tokenizer, args.questions, args.context, args.seed)
        bench = Bench(reader, args.ratio, args.methods)
        bench.measure(drawn.asked, name)
        new = [{"text": name, **row} for row in bench.rows(args.seed)]
        table(f"{name}: {len(drawn.asked)} questions", new, COLUMNS)
        about[name] = {
            "questions": len(drawn.asked), "passed_over_support_too_long": drawn.too_long,
            "paragraphs": drawn.paragraphs, "paragraphs_kept": drawn.kept,
            "answer_tokens": sum(len(asked.answer_A) for asked in drawn.asked) / len(drawn.asked),
            "seconds": {what: round(seconds, 1) for what, seconds in bench.stopwatch.seconds.items()},
        }  # fmt: skip
        console.print(about[name])
        if bench.measured.worth <= 0:
            console.print(f"{name}: the full text makes answers no likelier, so that gains mean nothing; read 'gained'")
        rows += new
        write(args.json, args.seed, rows, texts=about, model=args.model, peak_mib=round(peak_mib()))


if __name__ == "__main__":
    run(main)
