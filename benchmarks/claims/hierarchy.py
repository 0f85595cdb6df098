"""Documents cut into trees: entities against gold marks, lengths of segments by level, speed, memory for long texts."""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from rich.progress import track

from benchmarks.parts.harness import console, name_of, parser, peak_mib, run, start, table, write
from datamodules.conversation_reader import ConversationReader
from datamodules.document_reader import DocumentReader
from datamodules.fields import ConversationFields, DocumentFields
from datamodules.record_reader import MappedDocument
from datamodules.sources import open_source
from r3mem import Backbone, InputError
from r3mem.hierarchy import (
    Document,
    EntityFinder,
    EntitySentences,
    FixedWindows,
    Level,
    Mention,
    Refined,
    Segmenter,
)
from r3mem.hierarchy.entity_pipeline import RULES

# What LitBank marks: people, places, vehicles, organisations. spaCy's dates and figures are not among them.
NAMES = frozenset(
    {"PERSON", "NORP", "FAC", "ORG", "GPE", "LOC", "PRODUCT", "EVENT", "WORK_OF_ART", "NAME"}
)  # fmt: skip
# Where the records of our sample texts keep their parts; others are plain text.
MAPPINGS: dict[str, DocumentFields | ConversationFields] = {
    "chapters": DocumentFields(parts="chapters", part_title="head", part_text="paragraphs", title="title"),
    "sections": DocumentFields(
        text="abstract", parts="sections", part_title="title", part_text="sentences", title="title", separator=" "
    ),
    "meeting_transcripts": ConversationFields(turns="meeting_transcripts", speaker="speaker", text="content"),
}
ENTITY_COLUMNS = (
    "method",
    "kinds",
    "gold",
    "mentions",
    "found",
    "precision",
    "recall",
    "overlap_precision",
    "overlap_recall",
)
COVERAGE_COLUMNS = ("method", "leaves", "mean_tokens", "coverage", "coverage_proper", "mentions_cut", "sentences_cut")
SPEED_COLUMNS = (
    "text", "documents", "tokens", "tiles", "tokenise_tokens_per_second", "cold_documents_per_second",
    "cold_tokens_per_second", "warm_documents_per_second", "warm_tokens_per_second",
)  # fmt: skip
LEVEL_COLUMNS = ("text", "level", "segments", "mean", "p5", "p50", "p95", "max", "with_mention", "virtual_tokens")


def litbank(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The records of LitBank: text, entities, coreference."""
    for path in paths:
        for record in open_source(path).records():
            if not isinstance(record.value, dict) or not {"text", "entities", "coref"} <= set(record.value):
                raise InputError(f"{record.origin}: --litbank needs records with text, entities and coref")
            yield record.value


def gold_spans(record: dict[str, Any]) -> dict[str, set[tuple[int, int]]]:
    """All marked entities, and those of them that are proper names by the coreference marks."""
    spans = {(e["start"], e["end"]) for e in record["entities"]}
    proper = {(m["start"], m["end"]) for m in record["coref"] if m["type"].startswith("PROP")}
    return {"all": spans, "proper": spans & proper}


def overlapping(spans: Iterable[tuple[int, int]], others: set[tuple[int, int]]) -> int:
    """How many spans overlap one of the others."""
    return sum(any(a < d and c < b for c, d in others) for a, b in spans)


def entity_rows(records: list[dict[str, Any]], finders: dict[str, EntityFinder]) -> list[dict[str, Any]]:
    """Precision and recall of what each finder marks, by exact and by overlapping spans."""
    rows = []
    for method, finder in finders.items():
        began = time.perf_counter()
        read = list(finder.read_texts(record["text"] for record in records))
        seconds = time.perf_counter() - began
        for kinds in ("all", "names"):
            for which in ("all", "proper"):
                found = right = gold_n = recalled = hit = overlaps = 0
                for record, marked in zip(records, read, strict=True):
                    spans = {(m.start, m.end) for m in marked.mentions if kinds == "all" or m.kind in NAMES}
                    gold = gold_spans(record)[which]
                    found, gold_n, right = found + len(spans), gold_n + len(gold), right + len(spans & gold)
                    hit, overlaps = hit + overlapping(spans, gold), overlaps + overlapping(gold, spans)
                recalled = right / gold_n
                rows.append({
                    "method": method, "kinds": kinds, "gold": which, "mentions": gold_n, "found": found,
                    "precision": right / found, "recall": recalled, "overlap_precision": hit / found,
                    "overlap_recall": overlaps / gold_n, "documents": len(records), "seconds": round(seconds, 2),
                })  # fmt: skip
    return rows


def sentence_rows(records: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """spaCy's two ways to find sentences, beside `ner`; gold are LitBank's lines, shown to it as one line."""
    rows = []
    for way in ("senter", "parser"):
        needed = {way, "ner"} | ({"tok2vec"} if way == "parser" else set())
        nlp = spacy.load(model)
        for name in set(nlp.component_names) - needed:
            nlp.remove_pipe(name)
        nlp.enable_pipe(way)
        right = found = gold_n = words = 0
        began = time.perf_counter()
        for record in records:
            doc = nlp(record["text"].replace("\n", " "))
            gold = {0} | {i + 1 for i, char in enumerate(record["text"][:-1]) if char == "\n"}
            starts = {sentence.start_char for sentence in doc.sents}
            right, found, gold_n = right + len(starts & gold), found + len(starts), gold_n + len(gold)
            words += len(doc)
        seconds = time.perf_counter() - began
        rows.append({
            "method": way, "sentences": gold_n, "found": found, "precision": right / found, "recall": right / gold_n,
            "words_per_second": words / seconds,
        })  # fmt: skip
    return rows


def coverage_row(
    method: str, segmenter: Segmenter, tokens: int, marks: str, records: list[dict[str, Any]], tokenizer: Any
) -> dict[str, Any]:
    """Share of leaves in which a gold entity begins, and what the cuts go through.

    Args:
        method: Name in the table.
        segmenter: Makes the leaves.
        tokens: Most tokens of a leaf.
        marks: What the segmenter is told of the mentions: ``found`` (nothing), ``gold`` or ``none`` (there are none).
        records: LitBank.
        tokenizer: The backbone's.
    """
    leaves = n_tokens = cut = gold_n = inner = cuts = 0
    covered = {"all": 0, "proper": 0}
    for record in records:
        text, gold = record["text"], gold_spans(record)
        given = {"found": None, "gold": [Mention(*span) for span in gold["all"]], "none": []}[marks]
        document = Document.of(text, tokenizer, mentions=given)
        pieces = segmenter.pieces(document, 0, len(document.ids), tokens)
        borders = [document.char(first) for first, _ in pieces]
        leaves, n_tokens = leaves + len(pieces), n_tokens + len(document.ids)
        for which, spans in gold.items():
            held = {bisect_left(borders, first + 1) for first, _ in spans}
            covered[which] += len(held)
        gold_n += len(gold["all"])
        cut += sum(any(a < border < b for border in borders) for a, b in gold["all"])
        # One tokenised sentence a line: a cut that stands at no line end goes through a sentence.
        cuts += len(borders) - 1
        inner += sum("\n" not in text[border - 1 : border + 1] for border in borders[1:])
    return {
        "method": method, "tokens": tokens, "leaves": leaves, "mean_tokens": n_tokens / leaves,
        "coverage": covered["all"] / leaves, "coverage_proper": covered["proper"] / leaves,
        "mentions_cut": cut / gold_n, "sentences_cut": inner / max(1, cuts),
    }  # fmt: skip


def coverage_rows(
    records: list[dict[str, Any]], finders: dict[str, EntityFinder], tokens: int, tokenizer: Any
) -> list[dict[str, Any]]:
    """Entity-aware leaves against windows, of the same most and of the same mean length."""
    first = next(iter(finders.values()))
    rows = [
        coverage_row(f"sentences, entities by {method}", EntitySentences(finder), tokens, "found", records, tokenizer)
        for method, finder in finders.items()
    ]
    rows += [
        coverage_row("sentences, gold entities", EntitySentences(first), tokens, "gold", records, tokenizer),
        coverage_row("sentences, no entities", EntitySentences(first), tokens, "none", records, tokenizer),
        coverage_row(
            "sentences cut, entities by spaCy", EntitySentences(first, True), tokens, "found", records, tokenizer
        ),
        coverage_row("sentences cut, gold entities", EntitySentences(first, True), tokens, "gold", records, tokenizer),
        coverage_row(f"windows of {tokens}", FixedWindows(), tokens, "found", records, tokenizer),
    ]
    mean = round(rows[0]["mean_tokens"])
    rows.append(coverage_row(f"windows of {mean}", FixedWindows(), mean, "found", records, tokenizer))
    return rows


def texts_of(path: str, characters: int) -> list[MappedDocument]:
    """Documents of a source with their parts, until there are enough characters; the last is not cut."""
    found: list[MappedDocument] = []
    reader: DocumentReader | ConversationReader | None = None
    for record in open_source(path).records():
        if reader is None:
            keys = record.value if record.structured and isinstance(record.value, dict) else ()
            fields = next((fields for key, fields in MAPPINGS.items() if key in keys), DocumentFields())
            kind = ConversationReader if isinstance(fields, ConversationFields) else DocumentReader
            reader = kind(fields)  # type: ignore[arg-type]
        document = reader(record)
        if document is not None:
            found.append(document)
        if sum(len(document.text) for document in found) >= characters:
            break
    if not found:
        raise InputError(f"{path}: no document there; give other texts")
    return found


def text_rows(
    path: str, tokenizer: Any, hierarchy: Refined, again: Refined, characters: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Speed with nothing kept and with everything kept, and the lengths of segments by level.

    Args:
        path: Source.
        tokenizer: The backbone's.
        hierarchy: Cuts with an empty cache.
        again: The same with another finder, which knows only what the first left on disk.
        characters: About so many of the text.
    """
    texts = texts_of(path, characters)
    began = time.perf_counter()
    documents = [Document.of(t.text, tokenizer, title=t.title, parts=t.parts, name=t.name) for t in texts]
    tokenised = time.perf_counter()
    trees = [hierarchy.build(document) for document in documents]
    built = time.perf_counter()
    warm = [again.build(document) for document in documents]
    rebuilt = time.perf_counter()
    n_tokens = sum(len(document.ids) for document in documents)
    tiles = all(
        "".join(tree.text(node) for node in tree.nodes if node.level == depth) == tree.document.text
        for tree in trees for depth in range(len(hierarchy.levels))
    )  # fmt: skip
    if not tiles or [tree.nodes for tree in warm] != [tree.nodes for tree in trees]:
        raise InputError(f"{path}: the segments are not the text; please report this")
    name, cold_seconds, warm_seconds = name_of(path), built - tokenised, rebuilt - built
    speed = {
        "text": name, "documents": len(texts), "tokens": n_tokens, "tiles": tiles,
        "tokenise_tokens_per_second": n_tokens / (tokenised - began),
        "cold_documents_per_second": len(texts) / cold_seconds, "cold_tokens_per_second": n_tokens / cold_seconds,
        "warm_documents_per_second": len(texts) / warm_seconds, "warm_tokens_per_second": n_tokens / warm_seconds,
    }  # fmt: skip
    levels = []
    for depth, level in enumerate(hierarchy.levels):
        nodes = [node for tree in trees for node in tree.nodes if node.level == depth]
        lengths = np.array([node.end - node.start for node in nodes])
        levels.append({
            "text": name, "level": level.name, "segments": len(nodes), "mean": float(lengths.mean()),
            **{f"p{p}": int(np.percentile(lengths, p)) for p in (5, 50, 95)}, "max": int(lengths.max()),
            "with_mention": sum(bool(node.mentions) for node in nodes) / len(nodes),
            "virtual_tokens": sum(math.ceil(int(n) / (level.ratio or 1)) for n in lengths),
        })  # fmt: skip
    return speed, levels


def resident_mib() -> float:
    """Memory of this process now, MiB; its peak where the system does not tell."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20 if statm.exists() else peak_mib()


def stream_row(tokenizer: Any, text: str, streamed: bool, answer: Any) -> None:
    """Cut a text and send the most memory this process had meanwhile; run in a process of its own."""
    hierarchy = Refined(entities=EntityFinder(cache=False))
    # What is loaded once is loaded before the first look at the memory.
    hierarchy.build(Document.of("Ann met Bob.", tokenizer))
    before = most = resident_mib()
    began, n_tokens, n_leaves = time.perf_counter(), 0, 0
    lines = text.splitlines(keepends=True)
    for document in Document.stream(lines, tokenizer) if streamed else [Document.of(text, tokenizer)]:
        tree = hierarchy.build(document)
        n_tokens, n_leaves = n_tokens + len(document.ids), n_leaves + len(tree.leaves)
        most = max(most, resident_mib())
    answer.send({
        "streamed": streamed, "characters": len(text), "tokens": n_tokens, "leaves": n_leaves,
        "mib_before": before, "mib_most": most, "mib_more": most - before,
        "seconds": round(time.perf_counter() - began, 1),
    })  # fmt: skip


def stream_rows(tokenizer: Any, text: str, characters: int) -> list[dict[str, Any]]:
    """Memory for the beginning of a text and for four times as much, as a stream and, to compare, as one document."""
    context = multiprocessing.get_context("spawn")
    rows = []
    for streamed, times in ((True, 1), (True, 4), (False, 1), (False, 4)):
        ours, theirs = context.Pipe()
        child = context.Process(target=stream_row, args=(tokenizer, text[: times * characters], streamed, theirs))
        child.start()
        theirs.close()
        try:
            rows.append(ours.recv())
        except EOFError as error:
            raise InputError("the process that streams the text ended early; see its message above") from error
        child.join()
    return rows


def levels_of(finder: EntityFinder, ratios: list[int]) -> Refined:
    """The default hierarchy at the ratios of the command line."""
    hierarchy = Refined(entities=finder)
    if len(ratios) != len(hierarchy.levels):
        raise InputError(f"--ratio: give {len(hierarchy.levels)}, one a level: {', '.join(hierarchy.level_names)}")
    levels = [
        Level(level.name, level.segmenter, level.tokens, ratio, level.query)
        for level, ratio in zip(hierarchy.levels, ratios, strict=True)
    ]
    return Refined(levels, finder)


def main() -> None:
    """Entities and coverage where gold marks are given, then every text, then the stream."""
    p = parser("Trees of segments: entities, lengths, speed, memory", [32, 16, 8])
    p.add_argument("--litbank", nargs="+", default=[], metavar="PATH", help="LitBank records, with gold entities")
    p.add_argument("--characters", type=int, default=1_000_000, help="about so many of each text")
    p.add_argument(
        "--stream-characters", type=int, default=400_000, help="of the first text, streamed; and 4 times as many"
    )
    p.add_argument("--processes", type=int, default=1, help="processes that look for entities")
    args = start(p)
    tokenizer = Backbone(args.backbone, args.dtype, lora_rank=0).tokenizer
    # An empty cache of our own, so that "cold" is cold; the backbone came from the user's.
    with tempfile.TemporaryDirectory() as cache:
        os.environ["R3MEM_CACHE"] = cache
        finder = EntityFinder(processes=args.processes)
        hierarchy = levels_of(finder, args.ratio)
        finders = {"spaCy": finder, "rules": EntityFinder("rules")}
        entities, sentences, coverage = [], [], []
        if args.litbank:
            records = list(litbank(args.litbank))
            entities = entity_rows(records, finders)
            table("Entities of LitBank", entities, ENTITY_COLUMNS)
            model = finder.identity.split()[0]
            if model != RULES:
                sentences = sentence_rows(records, model)
                table("Sentences of LitBank", sentences, list(sentences[0]))
            coverage = coverage_rows(records, finders, hierarchy.segment_tokens, tokenizer)
            table("Leaves in which a gold entity begins", coverage, COVERAGE_COLUMNS)
        # Another batch size: results that are still in memory are not found by it, those on disk are.
        again = levels_of(EntityFinder(processes=args.processes, batch=finder.batch + 1), args.ratio)
        rows, levels = [], []
        for path in track(args.text, "texts", console=console):
            speed, lengths = text_rows(path, tokenizer, hierarchy, again, args.characters)
            rows.append(speed)
            levels += lengths
        table("Speed of cutting", rows, SPEED_COLUMNS)
        table("Tokens of segments", levels, LEVEL_COLUMNS)
        long = "\n\n".join(document.text for document in texts_of(args.text[0], 4 * args.stream_characters))
        stream = stream_rows(tokenizer, long, args.stream_characters)
        table("One long text, streamed or whole", stream, list(stream[0]))
    write(
        args.json, args.seed, rows, entities=entities, sentences=sentences, coverage=coverage, levels=levels,
        stream=stream, finder=finder.identity, processes=args.processes, versions={"spacy": spacy.__version__},
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
