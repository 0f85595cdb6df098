"""Find memories by words or by a question, best first.

Each hit is told with its id, where it is from, and how its text begins; `r3mem recall ID` gives the text.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from r3mem.store.shell.opening import add_model, add_policies, add_scope, opened, scope_of, whose
from r3mem.store.shell.output import minute, note, place, print_json, seen
from r3mem.store.shell.progress import Progress
from r3mem.store.shell.running import DONE, NOTHING

if TYPE_CHECKING:
    from r3mem.store.indexing import Indexing

#: Characters of a text that are shown.
SHOWN = 300


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    p.add_argument("query", nargs="+", metavar="QUERY", help="words or a question; behind -- if one begins with a dash")
    p.add_argument("-k", type=int, default=5, metavar="N", help="hits at most (5)")
    p.add_argument(
        "--by", choices=["words", "likelihood", "embeddings", "fused"],
        help="what ranks, if not --policies: words need no model; likelihood reads memories; fused takes both",
    )  # fmt: skip
    p.add_argument("--no-text", action="store_true", help="do not recall texts, which needs the model")
    p.add_argument("--full", action="store_true", help="print whole texts")
    add_model(p)
    add_policies(p)
    add_scope(p)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    scope = scope_of(args)
    query = " ".join(args.query)
    with opened(args) as store, Progress("searching"):
        hits = store.search(query, **whose(scope), k=args.k, by=_policy(args.by))
        told = [(hit, None if args.no_text else hit.text) for hit in hits]
    if args.json:
        print_json({"hits": [{**hit.plain(text=False), **({} if text is None else {"text": text})}
                             for hit, text in told]})  # fmt: skip
    for hit, text in [] if args.json else told:
        entry = hit.entry
        where = place(entry.source, entry.start, entry.end)
        print(f"{hit.rank}. {entry.id}  {where}  {minute(entry.time)}  score {hit.score:.3f}")
        if text is not None:
            shown = text if args.full or len(text) <= SHOWN else text[:SHOWN].rstrip() + " ..."
            print("".join(f"   {line}\n" for line in seen(shown).splitlines() if line.strip() or args.full), end="")
    if not hits:
        note(f"no memory of {scope.user!r} has a word of this query")
    return DONE if hits else NOTHING


def _policy(by: str | None) -> Indexing | None:
    if by is None:
        return None
    from r3mem.store.indexing import Embeddings, FullText, Fused, Likelihood

    if by == "words":
        return FullText()
    if by == "embeddings":
        return Embeddings()
    return Likelihood() if by == "likelihood" else Fused([FullText(), Likelihood()])
