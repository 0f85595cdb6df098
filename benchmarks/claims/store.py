"""The memory store beside a plain FTS5 table of the same texts: calls a second, bytes an entry, and what is found.

Texts are pieces of the source. A store is filled with all but the last, which are added one by one: those are the
adds a second, at that size. While texts wait for compression they are recalled from their raw text; a last row is of
a few that the model has compressed.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.parts.evidence import Asked, Talk, read_talks
from benchmarks.parts.harness import console, name_of, parser, run, start, table, write
from benchmarks.parts.keepers import Keeper, PlainFts5, StoreKeeper
from benchmarks.parts.postgresql_server import postgresql_server
from datamodules.sources import ReadingOptions, open_source
from r3mem import Backbone, ConfigError, InputError, R3Mem
from r3mem.store import MemoryStore
from r3mem.store.indexing import FullText, Fused, Indexing, Likelihood
from r3mem.store.pieces import cut

SPEED = ("method", "entries", "fills_per_second", "adds_per_second", "gets_per_second", "recalls_per_second",
         "searches_per_second", "deletes_per_second")  # fmt: skip
BESIDE = ("method", "entries", "adds_of_fts5", "searches_of_fts5", "recalls_of_fts5", "text_bytes_per_entry",
          "raw_bytes_per_entry", "blob_bytes_per_entry", "index_bytes_per_entry", "disk_bytes_per_entry")  # fmt: skip
CUTS = (1, 5, 10, 20)
FOUND = ("method", "talks", "turns", "questions", *(f"recall@{k}" for k in CUTS), "ms_per_query")


def texts_of(path: str, count: int, characters: int) -> list[str]:
    """Pieces of a source's documents, so many; where it has fewer it is read again, each piece with a number.

    Raises:
        InputError: There is no text.
    """

    def documents() -> Iterator[str]:
        rounds = 0
        while True:
            empty = True
            for document in open_source(path, ReadingOptions()).documents():
                for piece in cut([document.text], characters - 16):
                    empty = False
                    yield f"{rounds} {piece}" if rounds else piece
            if empty:
                raise InputError(f"{path}: there is no text")
            rounds += 1

    # Cut again, as the store will cut them.
    return list(islice(cut(documents(), characters), count))


def queries_of(texts: Sequence[str], count: int, words: int, draw: random.Random) -> list[str]:
    """Queries of some words of a text each."""
    queries = list[str]()
    for _ in range(100 * count):
        found = re.findall(r"\w{3,}", draw.choice(texts))
        if found:
            queries.append(" ".join(draw.sample(found, min(words, len(found)))))
        if len(queries) == count:
            return queries
    raise InputError("the texts have no words; give other texts")


def rate(call: Callable[[Any], Any], given: Iterable[Any]) -> float:
    """Calls a second."""
    listed = list(given)
    began = time.perf_counter()
    for each in listed:
        call(each)
    return len(listed) / max(time.perf_counter() - began, 1e-9)


def measured(method: str, keeper: Keeper, texts: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """One way of keeping at one size."""
    draw = random.Random(args.seed)
    alone = min(args.singles, len(texts) // 2)
    first, last = texts[: len(texts) - alone], texts[len(texts) - alone :]
    began = time.perf_counter()
    keeper.fill(first, args.characters)
    filled = time.perf_counter() - began
    row: dict[str, Any] = {"method": method, "entries": len(texts), "fills_per_second": len(first) / filled}
    row["adds_per_second"] = rate(keeper.add, last)
    names = draw.choices(keeper.names(min(10_000, len(texts))), k=args.queries)
    row["gets_per_second"] = rate(keeper.get, names)
    row["recalls_per_second"] = rate(keeper.recall, names)
    queries = queries_of(texts, args.queries, args.words, draw)
    row["searches_per_second"] = rate(lambda query: keeper.search(query, args.k), queries)
    row.update(keeper.sizes())
    row["deletes_per_second"] = rate(keeper.delete, dict.fromkeys(names[: args.deletes]))
    return row


def beside(rows: Sequence[dict[str, Any]]) -> None:
    """Write into each row how it stands to the plain table of the same size."""
    plain = {row["entries"]: row for row in rows if row["method"] == "plain FTS5"}
    for row in rows:
        for name in ("adds", "searches", "recalls"):
            row[f"{name}_of_fts5"] = row[f"{name}_per_second"] / plain[row["entries"]][f"{name}_per_second"]


def speeds(args: argparse.Namespace, server: str | None, folder: Path) -> list[dict[str, Any]]:
    """All ways of keeping at all sizes."""
    rows = list[dict[str, Any]]()
    every = texts_of(args.text[0], max(args.entries), args.characters)
    for count in args.entries:
        texts = every[:count]
        made: list[tuple[str, Callable[[], Keeper]]] = [
            ("plain FTS5", lambda: PlainFts5(folder / f"plain-{uuid.uuid4().hex}.db")),
            ("store, SQLite", lambda: StoreKeeper(f"sqlite:///{folder / uuid.uuid4().hex}.db")),
        ]
        if server is not None:
            made.append(("store, PostgreSQL", partial(_in_postgresql, server)))
        for method, opened in made:
            keeper = opened()
            try:
                rows.append(measured(method, keeper, texts, args))
            finally:
                keeper.close()
    beside(rows)
    return rows


def _in_postgresql(server: str) -> Keeper:
    return StoreKeeper(new_database(server))


def new_database(server: str) -> str:
    """URL of an empty database on a server."""
    from sqlalchemy import create_engine

    name = f"r3mem_{uuid.uuid4().hex}"
    engine = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return f"{server}/{name}"


def compressed(args: argparse.Namespace, model: R3Mem, folder: Path) -> dict[str, Any]:
    """A few entries that are compressed, recalled from their virtual tokens and compared, found and deleted.

    Raises:
        InputError: A text came back otherwise, or was not found.
    """
    keeper = StoreKeeper(f"sqlite:///{folder / 'compressed.db'}", model)
    try:
        # Not the first pieces: front matter is in them.
        texts = texts_of(args.text[0], 2 * args.compressed, args.characters)[args.compressed :]
        ids = [keeper.add(text) for text in texts]
        began = time.perf_counter()
        told = keeper.store.wait()
        seconds = time.perf_counter() - began
        if told.failed:
            raise InputError(f"{told.failed} texts could not be compressed: {dict(told.reasons)}")
        recalled = list[str]()
        row: dict[str, Any] = {
            "method": "store, SQLite, compressed", "entries": len(ids),
            "compressed_per_second": len(ids) / seconds,
            "gets_per_second": rate(keeper.get, ids),
            "recalls_per_second": rate(lambda id: recalled.append(keeper.recall(id)), ids),
            "searches_per_second": rate(lambda query: keeper.search(query, args.k),
                                        queries_of(texts, len(ids), args.words, random.Random(args.seed))),
            "tokens_per_entry": told.tokens / len(ids), "positions_per_entry": told.positions / len(ids),
            **keeper.sizes(),
        }  # fmt: skip
        if recalled != texts:
            raise InputError("a text was recalled otherwise than it was kept")
        row["deletes_per_second"] = rate(keeper.delete, ids[: args.deletes])
        left = keeper.store.stats()
        if left.entries != len(ids) - len(ids[: args.deletes]) or left.unerased:
            raise InputError("what was deleted is still there")
        return row
    finally:
        keeper.close()


def recalls_at(found: Callable[[Talk, Asked], list[int]], asked: Sequence[tuple[Talk, Asked]]) -> dict[str, float]:
    """Mean share of the evidence among the first hits, and the time of a query."""
    shares: dict[int, list[float]] = {k: [] for k in CUTS}
    began = time.perf_counter()
    for talk, question in asked:
        turns = found(talk, question)
        for k in CUTS:
            shares[k].append(len(question.evidence & set(turns[:k])) / len(question.evidence))
    spent = time.perf_counter() - began
    means = {f"recall@{k}": sum(shares[k]) / len(asked) for k in CUTS}
    return {**means, "ms_per_query": 1000 * spent / len(asked)}


def evidence(args: argparse.Namespace, model: Callable[[], R3Mem], folder: Path) -> list[dict[str, Any]]:
    """What is found of LoCoMo's evidence, by index policy. A conversation's turns are a user's entries."""
    talks = read_talks(args.evidence, args.talks)
    asked = [(talk, question) for talk in talks for question in talk.asked]
    asked = random.Random(args.seed).sample(asked, min(args.questions or len(asked), len(asked)))
    about = {"talks": len(talks), "turns": sum(len(talk.turns) for talk in talks), "questions": len(asked)}
    plain = dict[str, PlainFts5]()
    for number, talk in enumerate(talks):
        plain[talk.name] = PlainFts5(folder / f"talk-{number}.db")
        plain[talk.name].fill(talk.turns, args.characters)

    def by_fts5(talk: Talk, question: Asked) -> list[int]:
        return [name - 1 for name in plain[talk.name].search(question.question, max(CUTS))]

    rows: list[dict[str, Any]] = [{"method": "plain FTS5", **about, **recalls_at(by_fts5, asked)}]
    for keeper in plain.values():
        keeper.close()
    policies: dict[str, Indexing] = {"store, FullText": FullText()}
    if args.likelihood:
        policies["store, Likelihood"] = Likelihood(args.first)
        policies["store, FullText and Likelihood"] = Fused([FullText(), Likelihood(args.first)])
    needed = model() if args.likelihood else None
    with MemoryStore.open(f"sqlite:///{folder / 'evidence.db'}", model=needed, compress="later") as store:
        ids = {talk.name: {store.add(turn, user=talk.name).id: i for i, turn in enumerate(talk.turns)}
               for talk in talks}  # fmt: skip
        for method, policy in policies.items():

            def by_policy(talk: Talk, question: Asked, policy: Indexing = policy) -> list[int]:
                hits = store.search(question.question, user=talk.name, k=max(CUTS), by=policy)
                return [ids[talk.name][hit.entry.id] for hit in hits]

            rows.append({"method": method, **about, **recalls_at(by_policy, asked)})
    return rows


def arguments() -> argparse.ArgumentParser:
    """The arguments."""
    p = parser("The memory store beside a plain FTS5 table", [4])
    p.add_argument("--entries", nargs="+", type=int, default=[1000, 10_000], metavar="N", help="sizes")
    p.add_argument("--characters", type=int, default=300, help="characters of a text at most")
    p.add_argument("--singles", type=int, default=200, help="texts that are added one by one")
    p.add_argument("--queries", type=int, default=200, help="searches, recalls and gets")
    p.add_argument("--words", type=int, default=5, help="words of a query")
    p.add_argument("--k", type=int, default=10, help="hits of a search")
    p.add_argument("--deletes", type=int, default=5, help="texts that are deleted one by one")
    p.add_argument("--server", default=None, metavar="URL", help="a PostgreSQL server; one is started if left out")
    p.add_argument("--folder", type=Path, default=None, help="where SQLite's files lie; a temporary one if left out")
    p.add_argument("--compressed", type=int, default=20, help="entries that are compressed; 0 for none")
    p.add_argument("--model", default=None, metavar="DIR", help="a saved model; the default around --backbone else")
    p.add_argument("--evidence", default=None, metavar="FILE", help="LoCoMo's file; no evidence is sought if left out")
    p.add_argument("--talks", type=int, default=None, help="conversations of it at most")
    p.add_argument("--questions", type=int, default=None, help="questions at most, drawn; all if left out")
    p.add_argument("--likelihood", action="store_true", help="re-rank by memories too (slow: they are compressed)")
    p.add_argument("--first", type=int, default=50, help="hits that are re-ranked")
    return p


def main() -> None:
    """Measure, print and write."""
    args = start(arguments())
    if min(args.entries) < 2 or min(args.singles, args.queries, args.words, args.k, args.deletes) < 1:
        raise InputError("--entries is at least 2; --singles, --queries, --words, --k and --deletes at least 1")
    loaded = list[R3Mem]()

    def model() -> R3Mem:
        if not loaded:
            made = (R3Mem.from_pretrained(args.model, dtype=args.dtype) if args.model
                    else R3Mem(Backbone(args.backbone, args.dtype, lora_rank=0)))  # fmt: skip
            loaded.append(made.eval())
        return loaded[0]

    left_out = list[str]()
    with ExitStack() as stack:
        server = args.server
        if server is None:
            try:
                server = stack.enter_context(postgresql_server())
            except ConfigError as error:
                left_out.append(f"store, PostgreSQL: {error}")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=args.folder)))
        state = "installed, but not measured by this script" if find_spec("mem0") else "not installed"
        left_out.append(f"mem0 with infer=False: {state}")
        rows = speeds(args, server, folder)
        table(f"{name_of(args.text[0])}: calls a second, texts of up to {args.characters} characters", rows, SPEED)
        few = [compressed(args, model(), folder)] if args.compressed else []
        table("beside the plain table, and bytes an entry", [*rows, *few], BESIDE)
        if few:
            table("compressed", few, ("method", "entries", "compressed_per_second", *SPEED[4:]))
        found = evidence(args, model, folder) if args.evidence else []
        if found:
            table(f"{name_of(args.evidence)}: share of the evidence among the first hits", found, FOUND)
    for line in left_out:
        console.print(f"left out: {line}", highlight=False)
    write(args.json, args.seed, rows, compressed=few, evidence=found, left_out=left_out, text=name_of(args.text[0]))


if __name__ == "__main__":
    run(main)
