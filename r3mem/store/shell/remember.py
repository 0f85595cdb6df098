"""Keep files, folders, patterns such as 'notes/**/*.md', or standard input (-).

Text and Markdown are kept character for character, pages in HTML and PDF as their words, exports of chats (.jsonl) as
conversations. When the command ends, every text is safe on the disk. Compression follows: with --wait before it ends,
else with `r3mem stats --wait`, or when a command needs it. What cannot be read is left out and told, the rest is kept.
In a folder, hidden files are left alone.
"""

from __future__ import annotations

import argparse
import io
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from r3mem.errors import InputError, StoreError
from r3mem.store.given import given_time
from r3mem.store.pieces import check_characters
from r3mem.store.readers import READERS, Document, read
from r3mem.store.scope import Scope
from r3mem.store.shell.files import STANDARD_INPUT, Wanted, find, shown
from r3mem.store.shell.opening import (
    add_compression,
    add_policies,
    add_scope,
    default_store,
    file_of,
    opened,
    scope_of,
    whose,
)
from r3mem.store.shell.output import counted, note, print_json, seen
from r3mem.store.shell.progress import Progress, compress
from r3mem.store.shell.running import DONE, REFUSED, USAGE

if TYPE_CHECKING:
    from r3mem.store import Entry, MemoryStore

#: Lines about files at most; --json has all.
MOST_LINES = 20


@dataclass
class Remembered:
    """What was kept of one file."""

    source: str
    entries: list[Entry]
    left_aside: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of its texts."""
        return sum(entry.bytes for entry in self.entries)

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        ids = [entry.id for entry in self.entries]
        return {"source": self.source, "entries": ids, "bytes": self.bytes, "left_aside": self.left_aside}


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    p.add_argument("paths", nargs="+", metavar="PATH", help="a file, a folder, a pattern, or - for standard input")
    p.add_argument("--as", dest="kind", choices=sorted(READERS), help="what the files are; told by name if left out")
    p.add_argument("--source", metavar="NAME", help="where standard input is from")
    p.add_argument("--time", metavar="TIME", help="when it was written, as 2026-01-31T12:00:00+00:00; now if left out")
    p.add_argument(
        "--characters", type=int, default=4_000, metavar="N", help="a longer text becomes several entries (4000)"
    )
    p.add_argument("--update", metavar="ID", help="give this memory the text of the one file, as a new version")
    p.add_argument("--blobs", metavar="URL", help="of a new store: where virtual tokens go, if not into the database")
    add_compression(p)
    add_policies(p)
    add_scope(p)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    scope = scope_of(args)
    check_characters(args.characters)
    given_time(args.time)
    if args.source is not None and STANDARD_INPUT not in args.paths:
        raise InputError("--source names standard input: give - too; files are their own source")
    store_file = file_of(args.store or str(default_store()))
    own = [] if store_file is None else [Path(f"{store_file}{end}") for end in ("", "-wal", "-shm")]
    wanted = find(args.paths, own)
    if args.update is not None:
        return _update(args, wanted, scope)
    kept, left = list[Remembered](), list[tuple[str, str]]()
    with opened(args, make=True) as store:
        with Progress("reading", sum(each.bytes for each in wanted) or None, "bytes") as progress:
            for each in wanted:
                try:
                    if each.why is not None:
                        raise InputError(f"{each.name} {each.why}")
                    kept.append(_keep(store, args, each, whose(scope), progress))
                except InputError as error:
                    left.append((each.name, str(error)))
                except StoreError as error:
                    raise StoreError(f"{error}. {counted(len(kept), 'file')} before {each.name} stay kept") from error
        stats = compress(store) if args.wait and kept else store.stats()
        pending = store.stats(user=scope.user).pending if kept else 0
    for name, why in left[:MOST_LINES] if not args.json else left:
        # Most reasons begin with the name.
        note("left out: " + seen(why if name in why else f"{name}: {why}").replace("\n", " "))
    if len(left) > MOST_LINES and not args.json:
        note(f"left out: {len(left) - MOST_LINES:,} more; --json names all")
    if args.json:
        out = [{"source": name, "why": why} for name, why in left]
        told = {"files": [each.plain() for each in kept], "left_out": out, "pending": pending, "failed": stats.failed}
        print_json(told)
    else:
        _tell(kept, pending, stats.failed)
    if not kept:
        if not wanted:
            raise InputError("nothing to remember: no file is there that is not hidden")
        return USAGE
    return REFUSED if left else DONE


def _update(args: argparse.Namespace, wanted: list[Wanted], scope: Scope) -> int:
    if len(wanted) != 1 or wanted[0].why is not None:
        raise InputError("--update takes one file, or - for standard input: give its name")
    with opened(args) as store:
        store.get(args.update, **whose(scope))
        file = _file(wanted[0], args.kind)
        # One memory takes one text, however long: what is cut would be another memory.
        given = [document.turns or "".join(document.pieces or ()) for document in read(
            file, wanted[0].name, args.kind, sys.maxsize)]  # fmt: skip
        if len(given) != 1:
            raise InputError(f"{wanted[0].name} holds {len(given)} texts, and --update takes one: give another file")
        if not given[0]:
            raise InputError(f"{wanted[0].name} is empty: there is nothing to keep")
        entry = store.update(args.update, given[0], user=scope.user, time=args.time)
        if args.wait:
            compress(store)
        pending = store.stats(user=scope.user).pending
    if args.json:
        print_json({"entry": entry.id, "version": entry.version, "bytes": entry.bytes, "pending": pending})
    else:
        print(f"{entry.id}  version {entry.version}, {counted(entry.bytes, 'byte')}{_waiting(pending)}")
    return DONE


def _waiting(pending: int) -> str:
    return f"; {counted(pending, 'text')} pending: r3mem stats --wait compresses" if pending else ""


def _tell(kept: list[Remembered], pending: int, failed: int) -> None:
    for each in kept:
        for line in each.left_aside[:MOST_LINES]:
            note(f"{seen(each.source)}: {line}: left aside")
    if len(kept) <= MOST_LINES:
        for each in kept:
            first = each.entries[0].id
            more = "" if len(each.entries) == 1 else f" and {len(each.entries) - 1:,} more"
            print(f"{first}{more}  {seen(each.source)}")
    entries, size = sum(len(each.entries) for each in kept), sum(each.bytes for each in kept)
    if kept:
        names = f"{counted(len(kept), 'file')} in {counted(entries, 'entry', 'entries')}, {counted(size, 'byte')}"
        print(f"kept {names}{_waiting(pending)}")
    if failed:
        note(f"{counted(failed, 'text')} could not be compressed, and stay as they are: r3mem stats says why")


def _keep(
    store: MemoryStore, args: argparse.Namespace, wanted: Wanted, scope: Mapping[str, Any], progress: Progress
) -> Remembered:
    source = args.source or wanted.name if wanted.path is None else shown(str(wanted.path.absolute()))
    about = {**scope, "source": source, "time": args.time}
    told = Remembered(source, [])
    counted_bytes = 0

    def seen_go_by(pieces: Iterable[str]) -> Iterator[str]:
        nonlocal counted_bytes
        for piece in pieces:
            yield piece
            # What is taken out of a file is not as long as the file; at its end it counts as what it is.
            more = min(len(piece.encode("utf-8", "replace")), max(0, wanted.bytes - counted_bytes))
            counted_bytes += more
            progress.advance(more)

    for document in read(_file(wanted, args.kind), wanted.name, args.kind, args.characters):
        told.entries += _add(store, document, about, seen_go_by, args.characters)
        told.left_aside += document.left_aside
    progress.advance(wanted.bytes - counted_bytes)
    return told


def _add(
    store: MemoryStore, document: Document, about: Mapping[str, Any], watched: Any, characters: int
) -> list[Entry]:
    if document.pieces is None:
        return [store.add(document.turns, metadata=document.metadata, **about)]
    pieces: Iterator[str] = watched(document.pieces)
    first, size = list[str](), 0
    for piece in pieces:
        first.append(piece)
        size += len(piece)
        if size > characters:
            break
    if 0 < size <= characters:
        # A text of one entry may supersede an older one, as the policy of updating says.
        return [store.add("".join(first), metadata=document.metadata, **about)]
    whole = itertools.chain(first, pieces)
    return store.add_pieces(whole, metadata=document.metadata, characters=characters, **about)


def _file(wanted: Wanted, kind: str | None) -> Path | BinaryIO:
    if wanted.path is not None:
        return wanted.path
    stream = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise InputError("standard input gives no bytes: redirect a file or a pipe to it")
    # These go back and forth in a file, which a pipe cannot.
    return io.BytesIO(stream.read()) if kind in ("pdf", "chat") else stream
