"""Letter-by-letter search in one long document: by likelihood alone, by words alone, and by both.

A release sheet stands in the middle of a novel, and codes stand between its sentences. Asked for are the sheet's
literals, questions about them that do not hold them, and the codes. Every leaf of the stored tree is ranked; found is
the leaf that holds what was asked for.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.compare.methods import methods, model_of
from benchmarks.parts.harness import console, documents, name_of, parser, peak_mib, run, start, table, write
from r3mem import Backbone, InputError, R3Mem, TreeMemory
from r3mem.search import TreeSearch
from r3mem.search.tree import WAYS

SHEET = """# Release sheet

Validation marker: MARKER-7734. Ticket QX-0091-b, commit `9f3c1e7`, IBAN-like DE00 1234 5678 9012 3456 00, MAC 00:1b:44:11:3a:b7.

| Code   | Area     | Limit   | Owner        |
|:-------|:--------:|--------:|--------------|
| `E002` | Protocol |    0.10 | A. Example   |
| `E020` | Protocol |    0.01 | B. Example   |
| `E200` | Network  | 1,000.0 |              |
|        | **none** |      -0 | C\\|D Example |

```python
def check(a,  b):
\tif a <= b:   # two spaces, a tab, a trailing blank\x20
        return {"E002": 0.10, "E020": 0.01}
```

* item
  * nested
    1. deeper

Pi to 30 places: 3.141592653589793238462643383279; its first wrong digit would not be noticed.
"""  # noqa: E501
#: What stands in the sheet, and a question that asks for it without saying it.
ASKED = {
    "MARKER-7734": "Which marker validates the release?",
    "QX-0091-b": "Which ticket does the release belong to?",
    "9f3c1e7": "What is the short hash of the commit?",
    "`E020` | Protocol |    0.01": "How low is the second limit of the protocol?",
    "C\\|D Example": "Who owns the row that has no code?",
}
LITERAL, QUESTION, CODE = "literal of the sheet", "question about the sheet", "code in the prose"
# Title pages and lists of chapters are no prose.
FRONT = 20_000
COLUMNS = (
    "text", "compressor", "ratio", "asked", "method", "documents", "leaves", "queries", "hit@1", "hit@5", "mrr",
    "ms_per_query",
)  # fmt: skip


@dataclass
class Found:
    """What a way of searching found, query by query.

    Attributes:
        ranks: Of the first right leaf; infinite where none was found.
        seconds: Time of all queries.
    """

    ranks: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def row(self) -> dict[str, Any]:
        """The figures of a result row."""
        n = len(self.ranks)
        return {
            "queries": n, "hit@1": sum(rank <= 1 for rank in self.ranks) / n,
            "hit@5": sum(rank <= 5 for rank in self.ranks) / n, "mrr": sum(1 / rank for rank in self.ranks) / n,
            "ms_per_query": 1000 * self.seconds / n,
        }  # fmt: skip


def written(ids: list[int], backbone: Backbone, tokens: int, codes: list[str]) -> str:
    """A document of about so many tokens: prose with a code in each stretch of it, the sheet in its middle.

    Args:
        ids: Token ids of the prose; those that are too many are left out.
        backbone: Its tokenizer is used.
        tokens: Most tokens of the document.
        codes: What stands between sentences, in this order.

    Raises:
        InputError: The prose is too short, or one of its stretches has no sentence that ends.
    """
    sentences = [f" The number on the paper was {code}." for code in codes]
    room = tokens - sum(len(backbone.tokenizer(text).input_ids) for text in [SHEET, *sentences]) - 8 * len(codes) - 16
    if not 0 < room <= len(ids):
        raise InputError(f"{len(ids)} tokens of prose for {room}: give longer texts, or fewer leaves")
    prose = backbone.tokenizer.decode(ids[:room])
    pieces, at = [], 0
    middle = len(codes) // 2
    for i, sentence in enumerate(sentences):
        end = prose.find(". ", (2 * i + 1) * len(prose) // (2 * len(codes))) + 1
        if not at < end:
            raise InputError("a stretch of the prose has no sentence that ends: give other texts or fewer codes")
        pieces.append(prose[at:end] + sentence)
        at = end
        if i + 1 == middle:
            pieces.append(f"\n\n{SHEET}\n")
    return "".join([*pieces, prose[at:]])


def novels(path: str, backbone: Backbone, tokens: int, most: int) -> list[list[int]]:
    """The first so many token ids of each of a source's first documents that are long enough.

    Raises:
        InputError: There are too few.
    """
    found = documents(path, backbone, tokens, skip=FRONT, least=tokens, most=most)
    if len(found) < most:
        raise InputError(f"{path}: {len(found)} documents of {tokens} tokens, not {most}: give more, or fewer leaves")
    return [ids[:tokens] for ids in found]


def code(draw: random.Random) -> str:
    """A code that no novel holds, such as ``KV-4821-x``."""
    letters = "".join(draw.choices("BCDFGHJKLMNPQRSTVWXZ", k=2))
    return f"{letters}-{draw.randrange(1000, 10_000)}-{draw.choice('abcdefghijkmnpqrstuvwxyz')}"


def holders(texts: list[str], literal: str) -> list[bool]:
    """For each leaf, in order, whether some of a literal stands in it.

    Raises:
        InputError: The literal stands nowhere, or more than once.
    """
    whole = "".join(texts)
    if whole.count(literal) != 1:
        raise InputError(f"{literal!r} stands {whole.count(literal)} times in the document, not once")
    begins, held, at = whole.index(literal), [], 0
    for text in texts:
        held.append(at < begins + len(literal) and begins < at + len(text))
        at += len(text)
    return held


def search(model: R3Mem, tree: TreeMemory, queries: list[tuple[str, str, str]], found: dict[Any, Found]) -> None:
    """Ask one document every query in every way.

    Args:
        model: The model.
        tree: Its memory of the document.
        queries: Of each its kind, itself, and the literal that a right leaf holds.
        found: By kind and way; is added to.
    """
    leaves = tree.leaves
    texts = [model.recall(tree, i) for i in leaves]
    right = [{i for i, held in zip(leaves, holders(texts, literal), strict=True) if held} for *_, literal in queries]
    for by in WAYS:
        searcher = TreeSearch(model, beam=len(leaves), by=by)
        # The texts are recalled once for all queries, and not timed as part of one.
        searcher.search([tree], "the", k=1)
        for (kind, query, _), holding in zip(queries, right, strict=True):
            began = time.perf_counter()
            hits = searcher.search([tree], query, k=len(leaves))
            mine = found.setdefault((kind, by), Found())
            mine.seconds += time.perf_counter() - began
            mine.ranks.append(next((at for at, hit in enumerate(hits, 1) if hit.node in holding), math.inf))


def main() -> None:
    """Search every text at every ratio, print and write."""
    p = parser("Literals found among the leaves of one long document", [8])
    p.add_argument(
        "--compressors", nargs="+", choices=methods(), default=["selected_key_values"], help="how leaves are compressed"
    )
    p.add_argument("--documents", type=int, default=4, help="novels of each text")
    p.add_argument("--leaves", type=int, default=33, help="leaves of a document")
    p.add_argument("--leaf-tokens", type=int, default=256, help="tokens of a leaf")
    p.add_argument("--codes", type=int, default=8, help="codes in the prose of each document")
    args = start(p)
    if min(args.documents, args.leaves, args.leaf_tokens) < 1 or args.codes < 2:
        raise InputError("--documents, --leaves and --leaf-tokens must be at least 1, --codes at least 2")
    backbone = Backbone(args.backbone, args.dtype, lora_rank=0)
    tokens = args.leaves * args.leaf_tokens
    rows: list[dict[str, Any]] = []
    for text in args.text:
        prose, draw = novels(text, backbone, tokens, args.documents), random.Random(args.seed)
        codes = [[code(draw) for _ in range(args.codes)] for _ in prose]
        whole = [written(ids, backbone, tokens, drawn) for ids, drawn in zip(prose, codes, strict=True)]
        for compressor, ratio in itertools.product(args.compressors, args.ratio):
            model = model_of(compressor, backbone, ratio, args.leaf_tokens).eval()
            model.calibrate()
            found: dict[Any, Found] = {}
            leaves = []
            for document, drawn in zip(whole, codes, strict=True):
                tree = model.retain_tree(document)
                queries = [(LITERAL, literal, literal) for literal in ASKED]
                queries += [(QUESTION, question, literal) for literal, question in ASKED.items()]
                queries += [(CODE, one, one) for one in drawn]
                search(model, tree, queries, found)
                leaves.append(len(tree.leaves))
                console.print(f"{name_of(text)}, {compressor}, ratio {ratio}: {tree}")
            about = {"text": name_of(text), "compressor": compressor, "ratio": ratio, "documents": len(whole),
                     "leaves": sum(leaves) / len(leaves)}  # fmt: skip
            order = sorted(found, key=lambda key: ((LITERAL, QUESTION, CODE).index(key[0]), WAYS.index(key[1])))
            rows += [{**about, "asked": kind, "method": by, **found[kind, by].row()} for kind, by in order]
    table("The leaf that holds what was asked for", rows, COLUMNS)
    console.print(f"peak memory {peak_mib():,.0f} MiB")
    write(args.json, args.seed, rows, leaf_tokens=args.leaf_tokens)


if __name__ == "__main__":
    run(main)
