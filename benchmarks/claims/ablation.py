"""The ablation of the hierarchy: one level, several, several that refine; equal virtual tokens, equal training tokens.

Shape legend: B batch (leaves), N text tokens, P leaves of a document.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.claims.ablation_training import FIELDS, HIERARCHIES, QUERY_TOKENS, train
from benchmarks.compare.methods import has_maps, methods
from benchmarks.parts.harness import console, parser, peak_mib, run, start, table, write
from datamodules.document_reader import DocumentReader
from datamodules.record_reader import MappedDocument
from datamodules.sources import open_source
from r3mem import InputError, Memory, R3Mem, Segments
from r3mem.backbone.evaluation_mode import evaluating
from r3mem.hierarchy import Document, Mention, SegmentTree
from r3mem.memory.states import joined
from r3mem.memory.tree_memory import TreeMemory
from r3mem.metrics import EntityRecall, MeanReciprocalRank, RecallAtK, RetainedGain
from r3mem.objectives import forward_nll, log_likelihood
from r3mem.plain_data.query_template import QueryTemplate
from r3mem.search import BM25
from r3mem.search.tree import TreeSearch

HISTORY, CONTINUATION = 512, 128
# Leaves that are looked for in a top-down search; its beam is at least as wide.
FOUND = 5
GENERATED = 48
# Leaves generated from at a time.
TOGETHER = 16
COST = ("virtual_tokens_per_text_token", "train_tokens", "train_steps", "train_queries", "train_seconds", "parameters")
GAIN_COLUMNS = (
    "hierarchy",
    "seed",
    "nll_nothing",
    "nll_memory",
    "nll_full",
    "retained_gain",
    "positions",
    "passages",
    *COST,
)
SEARCH_COLUMNS = (
    "hierarchy", "seed", "leaves", "queries", "memory_recall@1", "memory_recall@5", "memory_mrr", "beam_recall@1",
    "beam_recall@5", "beam_mrr", "bm25_recall@1", "bm25_recall@5", "bm25_mrr", "random_recall@1",
    "memory_ms_per_query", "beam_ms_per_query",
)  # fmt: skip
ENTITY_COLUMNS = ("hierarchy", "seed", "recalled_leaves", "generated", "generated_other_memory", "correction_bits")

# What is averaged over seeds.
MEASURES = (
    "retained_gain", "memory_recall@1", "memory_recall@5", "memory_mrr", "beam_recall@1", "beam_recall@5", "beam_mrr",
    "recalled_leaves", "generated", "generated_other_memory",
)  # fmt: skip
MEAN_COLUMNS = ("hierarchy", "seeds", *MEASURES)


def read(paths: Sequence[str], most: int | None, seed: int) -> list[MappedDocument]:
    """Documents with gold entities; some of them, drawn at random, where fewer are asked for.

    Raises:
        InputError: There is none, or one without marked entities.
    """
    reader, found = DocumentReader(FIELDS), []
    for path in paths:
        for record in open_source(path).records():
            if not isinstance(record.value, dict) or "entities" not in record.value:
                raise InputError(f"{record.origin}: no entities; --text needs records with text and entities")
            mapped = reader(record)
            if mapped is not None:
                found.append(mapped)
    if not found:
        raise InputError(f"{', '.join(paths)}: no document there; give other texts")
    return found if most is None or most >= len(found) else random.Random(seed).sample(found, most)


def part_of(document: Document, first: int, last: int, tokenizer: Any) -> Document:
    """Some tokens of a document, with the mentions in them, as a document of its own."""
    begin, end = document.char(first), document.char(last)
    inside = [m for m in document.mentions or () if begin <= m.start and m.end <= end]
    shifted = [Mention(m.start - begin, m.end - begin, m.kind) for m in inside]
    return Document.of(document.text[begin:end], tokenizer, title=document.title, mentions=shifted)


@torch.no_grad()
def retained(model: R3Mem, documents: Sequence[Document], passages: int) -> dict[str, Any]:
    """Likelihood of what follows a passage, given nothing, the memory of the passage's leaves, and the passage.

    Args:
        model: The model; its adapters read in all three.
        documents: The documents.
        passages: At most so many of each.

    Raises:
        InputError: No document is long enough.
    """
    tokenizer, device, window = model.backbone.tokenizer, model.backbone.device, HISTORY + CONTINUATION
    gain, sums, n_tokens, positions, n_passages = RetainedGain(), torch.zeros(3), 0, 0, 0
    row_B = torch.ones(1, dtype=torch.bool, device=device)
    for document in documents:
        for first in list(range(0, len(document.ids) - window + 1, window))[:passages]:
            history = part_of(document, first, first + HISTORY, tokenizer)
            after = Segments.pad([document.ids[first + HISTORY : first + window]], device)
            leaves = model.retain_tree(history).levels[-1]
            with evaluating(model), model.at_ratio(leaves.ratio):
                state = model.state(leaves, reach="records")
                memory, count = forward_nll(model.likelihood(after, state), after, row_B)
                nothing, _ = forward_nll(model.likelihood(after), after, row_B)
                whole = Segments.pad([history.ids + after.ids_BN[0].tolist()], device)
                logits_BNV = model.likelihood(whole)[:, len(history.ids) :]
                full, _ = forward_nll(logits_BNV, after, row_B)
            gain.update(nothing.cpu(), memory.cpu(), full.cpu())
            sums += torch.stack([nothing, memory, full]).cpu()
            n_tokens, positions, n_passages = n_tokens + int(count), positions + leaves.n_slots, n_passages + 1
    if not n_passages:
        raise InputError(f"no document of at least {window} tokens: give longer texts")
    nll_nothing, nll_memory, nll_full = (sums / n_tokens).tolist()
    return {
        "nll_nothing": nll_nothing, "nll_memory": nll_memory, "nll_full": nll_full,
        "retained_gain": float(gain.compute()), "positions": positions / n_passages, "passages": n_passages,
    }  # fmt: skip


class Ranks:
    """Recall@1, recall@5 and mean reciprocal rank under a name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.metrics = {"recall@1": RecallAtK(1), "recall@5": RecallAtK(5), "mrr": MeanReciprocalRank()}

    def update(self, scores: Sequence[float], relevant: Sequence[bool]) -> None:
        """Add a query."""
        for metric in self.metrics.values():
            metric.update(torch.tensor(scores, dtype=torch.float64), torch.tensor(relevant))

    def compute(self) -> dict[str, float]:
        """The three figures."""
        return {f"{self.name}_{key}": float(metric.compute()) for key, metric in self.metrics.items()}


class Asked:
    """A document that has been compressed, and those of its leaves that are asked for.

    Args:
        model: The model.
        document: The document.
        memory: What was retained of it.
        leaves: At most so many of its leaves with a gold mention are drawn; None takes them all.
        draw: Draws them.
    """

    def __init__(
        self, model: R3Mem, document: Document, memory: TreeMemory, leaves: int | None, draw: random.Random
    ) -> None:
        self.memory = memory
        self.tree: SegmentTree = model.hierarchy.build(document)
        self.leaves = memory.leaves
        queries = [model.hierarchy.queries(self.tree, i) for i in self.leaves]
        #: The distinct mentions of each leaf, joined by commas; empty for one without.
        self.queries = [found[0] if found else "" for found in queries]
        named = [p for p, query in enumerate(self.queries) if query]
        self.drawn = named if leaves is None or leaves >= len(named) else sorted(draw.sample(named, leaves))

    def mentions(self, index: int) -> list[str]:
        """Gold mentions that begin in a node."""
        return [self.tree.document.text[m.start : m.end] for m in self.tree.nodes[index].mentions]


@torch.no_grad()
def leaf_scores(model: R3Mem, memory: TreeMemory, leaves: Sequence[int], asked: list[list[int]], given: int) -> Any:
    """``log p(query | memory of the leaf)`` of every query and leaf, nats.

    Args:
        model: The model.
        memory: The document.
        leaves: Its leaves.
        asked: Token ids of each query behind its template.
        given: Tokens of the template, which are not scored.
    """
    with evaluating(model), model.at_ratio(memory.levels[-1].ratio):
        state = joined([model.state(memory.memory(i)) for i in leaves])
        assert state is not None
        rows = []
        for ids in asked:
            query = Segments.pad([ids] * len(leaves), model.backbone.device)
            rows.append(log_likelihood(model.likelihood(query, state), query, given).tolist())
        return rows


def search(model: R3Mem, documents: Sequence[Asked], beam: int) -> dict[str, Any]:
    """Leaves of a document ranked for the mentions of one of them: by memory, by memory from the top, by BM25.

    A leaf with the same query as the one that is asked for is as right.
    """
    template, tokenizer = QueryTemplate(), model.backbone.tokenizer
    given = template.given(tokenizer)
    levels = len(documents[0].memory.levels)
    memory, top_down, bm25 = Ranks("memory"), Ranks("beam"), Ranks("bm25")
    n_queries = n_leaves = 0
    seconds, chance = {"memory": 0.0, "beam": 0.0}, 0.0
    for asked in documents:
        queries = [asked.queries[p] for p in asked.drawn]
        ids = [given + template.scored(tokenizer, query)[:QUERY_TOKENS] for query in queries]
        texts = [asked.tree.text(asked.tree.nodes[i]) for i in asked.leaves]
        words = BM25()
        # A leaf of white space alone has no words to index.
        words.index([text if text.strip() else "." for text in texts])
        began = time.perf_counter()
        scored = leaf_scores(model, asked.memory, asked.leaves, ids, len(given))
        seconds["memory"] += time.perf_counter() - began
        for query, scores in zip(queries, scored, strict=True):
            relevant = [other == query for other in asked.queries]
            memory.update(scores, relevant)
            bm25.update(words.scores(query), relevant)
            chance += sum(relevant) / len(relevant)
            if levels > 1:
                began = time.perf_counter()
                hits = TreeSearch(model, beam).search([asked.memory], query, k=FOUND)
                seconds["beam"] += time.perf_counter() - began
                found = {hit.node: hit.score for hit in hits}
                top_down.update([found.get(i, -torch.inf) for i in asked.leaves], relevant)
        n_queries, n_leaves = n_queries + len(queries), n_leaves + len(texts)
    times = {f"{k}_ms_per_query": 1000 * v / n_queries for k, v in seconds.items() if k == "memory" or levels > 1}
    return {
        "leaves": n_leaves / len(documents), "queries": n_queries, **memory.compute(),
        **(top_down.compute() if levels > 1 else {}), **bm25.compute(), "random_recall@1": chance / n_queries, **times,
    }  # fmt: skip


@torch.no_grad()
def entities(model: R3Mem, names: Sequence[str], documents: Sequence[Asked]) -> dict[str, Any]:
    """Gold mentions in the text recalled from each level, and in what is generated from a leaf's memory.

    A mention counts where it begins; one that a cut goes through is in neither segment's text.

    Args:
        model: The model.
        names: What the levels are called.
        documents: The documents.
    """
    recalled, bits = {}, {}
    for level, name in enumerate(names):
        metric = EntityRecall()
        for asked in documents:
            records = asked.memory.levels[level]
            nodes = [i for i, node in enumerate(asked.memory.nodes) if node.level == level]
            nodes.sort(key=lambda i: asked.memory.nodes[i].record)
            metric.update(recalled_texts(model, records), [asked.mentions(i) for i in nodes])
        recalled[name] = float(metric.compute())
        records_of = [asked.memory.levels[level] for asked in documents]
        bits[name] = sum(r.correction_bits for r in records_of) / sum(r.n_tokens for r in records_of)
    own, other = EntityRecall(), EntityRecall()
    leaves = [(asked, asked.leaves[p]) for asked in documents for p in asked.drawn]
    memories = [asked.memory.memory(i) for asked, i in leaves]
    gold = [asked.mentions(i) for asked, i in leaves]
    with model.at_ratio(memories[0].ratio):
        for at in range(0, len(leaves), TOGETHER):
            part = memories[at : at + TOGETHER]
            texts = model.generate(["\n"] * len(part), memory=part, max_new_tokens=GENERATED, do_sample=False)
            own.update(texts, gold[at : at + TOGETHER])
            # The same texts against the mentions of the next leaf, mostly of the same document: not their memory.
            other.update(texts, [gold[(i + 1) % len(gold)] for i in range(at, at + len(part))])
    return {
        "recalled": recalled, "recalled_leaves": recalled[names[-1]], "generated": float(own.compute()),
        "generated_other_memory": float(other.compute()) if len(gold) > 1 else None,
        "correction_bits_by_level": bits,
        "correction_bits": bits[names[-1]],
    }  # fmt: skip


def recalled_texts(model: R3Mem, records: Memory) -> list[str]:
    """The text of each record, by running backward."""
    with model.at_ratio(records.ratio):
        ids = model.recall_ids(records)
    rows = torch.tensor(ids).split(records.lengths_T.tolist())
    return [str(model.backbone.tokenizer.decode(row, clean_up_tokenization_spaces=False)) for row in rows]


def evaluated(model: R3Mem, texts: Sequence[MappedDocument], args: Any) -> dict[str, Any]:
    """Everything that is measured of one model on the held-out documents."""
    tokenizer = model.backbone.tokenizer
    documents = [Document.of(t.text, tokenizer, title=t.title, mentions=t.mentions or (), name=t.name) for t in texts]
    if args.document_tokens is not None:
        documents = [part_of(d, 0, min(len(d.ids), args.document_tokens), tokenizer) for d in documents]
    gained = retained(model, documents, args.passages)
    draw = random.Random(args.seed)
    memories = model.retain_tree(documents)
    asked = [Asked(model, d, m, args.leaves, draw) for d, m in zip(documents, memories, strict=True)]
    asked = [a for a in asked if a.drawn]
    if not asked:
        raise InputError("no leaf of the held-out documents has a marked entity: give texts with entities")
    return {
        **gained, **search(model, asked, args.beam), **entities(model, model.hierarchy.level_names, asked),  # type: ignore[attr-defined]
        "virtual_tokens_per_text_token": sum(m.n_slots for m in memories) / sum(m.n_tokens for m in memories),
        "documents": len(documents),
    }  # fmt: skip


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean of each hierarchy's seeds, and half the distance between the highest and the lowest, for every measure."""
    found = []
    for name in dict.fromkeys(row["hierarchy"] for row in rows):
        mine = [row for row in rows if row["hierarchy"] == name]
        values = {key: [row[key] for row in mine] for key in MEASURES if mine[0].get(key) is not None}
        found.append({
            "hierarchy": name, "seeds": len(mine), **{key: sum(v) / len(v) for key, v in values.items()},
            **{f"{key}_spread": (max(v) - min(v)) / 2 for key, v in values.items()},
        })  # fmt: skip
    return found


def shown(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The means as they are printed: ``mean +- spread``."""
    return [
        {**row, **{key: f"{row[key]:.3f} +- {row[f'{key}_spread']:.3f}" for key in MEASURES if key in row}}
        for row in means(rows)
    ]


def main() -> None:
    """Train each hierarchy for as many tokens, evaluate it on held-out documents, print and write."""
    p = parser("Flat, MultiLevel and Refined at an equal number of virtual tokens and training tokens", [5, 40, 20, 8])
    p.add_argument("--train", nargs="+", default=None, metavar="PATH", help="documents to train on")
    p.add_argument("--hierarchies", nargs="+", default=list(HIERARCHIES), choices=HIERARCHIES, help="what to compare")
    p.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1], help="each hierarchy is trained once with each of them"
    )
    p.add_argument(
        "--compressor", choices=[m for m in methods() if has_maps(m)], default="virtual_tokens", help="how to compress"
    )
    p.add_argument("--write-layer", type=int, default=None, help="layer whose states become slots")
    p.add_argument("--read-layer", type=int, default=None, help="layer at which a memory enters")
    p.add_argument(
        "--first", type=float, default=0.5, help="share of slots for first tokens in edge pooling; others: last"
    )
    p.add_argument(
        "--attention", default=None, help="attention path of transformers: eager is faster for short segments"
    )
    p.add_argument("--train-tokens", type=int, default=60_000, help="text tokens each compresses; 0: no training")
    p.add_argument("--batch", type=int, default=4, help="rows a training step")
    p.add_argument("--lr", type=float, default=5e-4, help="highest learning rate")
    p.add_argument("--warm-up", type=int, default=20, help="steps over which the learning rate rises")
    p.add_argument("--share", type=float, default=0.25, help="exact share of a slot")
    p.add_argument("--no-calibrate", dest="calibrate", action="store_false", help="start from random maps")
    p.add_argument(
        "--document-tokens", type=int, default=None, help="cut held-out documents after so many; default whole"
    )
    p.add_argument("--documents", type=int, default=None, help="held-out documents, drawn at random; default all")
    p.add_argument("--leaves", type=int, default=None, help="leaves of a document that are asked for; default all")
    p.add_argument("--passages", type=int, default=4, help="passages of a document for the retained gain")
    p.add_argument("--beam", type=int, default=FOUND, help="nodes of a level that a search from the top keeps")
    p.add_argument("--save", type=Path, default=None, metavar="DIR", help="keep trained models, and use those found")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to run")
    p.set_defaults(text=None)
    args = start(p)
    if not args.text:
        raise InputError("--text is missing: give held-out documents with marked entities, such as LitBank's")
    if len(args.ratio) != 4:
        raise InputError(f"--ratio {args.ratio}: give four, of flat windows, then of document, paragraph and entity")
    # Before any training: what cannot be evaluated need not be trained.
    texts = read(args.text, args.documents, args.seed)
    rows: list[dict[str, Any]] = []
    # Seed by seed, written after every model: what is there when a run ends early can be compared.
    for seed in args.seeds:
        for name in args.hierarchies:
            model, spent = train(name, seed, args)
            began = time.perf_counter()
            cost = {k: v for k, v in vars(spent).items() if k != "curve"}
            found = evaluated(model, texts, args)
            seconds = time.perf_counter() - began
            rows.append({
                "hierarchy": name, "seed": seed, **found, **cost, "evaluation_seconds": seconds, "curve": spent.curve,
            })  # fmt: skip
            console.print(f"{name}, seed {seed}: evaluated in {seconds:,.0f} s, peak memory {peak_mib():,.0f} MiB")
            write(args.json, args.seed, rows, ratios=args.ratio, means=means(rows), peak_mib=peak_mib())
    table(
        f"Retained gain, {CONTINUATION} tokens after {HISTORY} that are read as their leaves' memory",
        rows,
        GAIN_COLUMNS,
    )
    table("Search for the leaf that holds the mentions, among the leaves of its document", rows, SEARCH_COLUMNS)
    table("Gold mentions in recalled and generated text; bits of correction per token", rows, ENTITY_COLUMNS)
    console.print(f"by level: {[{k: r[k] for k in ('recalled', 'correction_bits_by_level')} for r in rows]}")
    table("Mean over seeds; behind it half the distance between the highest and the lowest", shown(rows), MEAN_COLUMNS)
    console.print(f"peak memory {peak_mib():,.0f} MiB")


if __name__ == "__main__":
    run(main)
