"""The memories of a user, in the order in which they were added; all of them, or page by page with --limit."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from r3mem.errors import InputError
from r3mem.store.scope import Scope
from r3mem.store.shell.opening import add_scope, opened, scope_of, whose
from r3mem.store.shell.output import counted, minute, note, place, print_json
from r3mem.store.shell.running import DONE, NOTHING
from r3mem.store.shell.sources import PAGE

if TYPE_CHECKING:
    from r3mem.store import MemoryStore, Page


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    p.add_argument("--limit", type=int, metavar="N", help="entries at most; all if left out")
    p.add_argument("--after", metavar="CURSOR", help="what the page before told as next")
    add_scope(p)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    scope = scope_of(args)
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit {args.limit}: give 1 or more, or leave it out for all")
    plain, count, total, after = [], 0, 0, None
    with opened(args) as store:
        for page in _pages(store, scope, args.after, args.limit):
            total, after = page.total, page.next
            count += len(page)
            if args.json:
                plain += [entry.plain() for entry in page]
                continue
            for entry in page:
                where = place(entry.source, entry.start, entry.end)
                version = f"  version {entry.version}" if entry.version > 1 else ""
                level = "  consolidated" if entry.level == "consolidated" else ""
                gone = f"  superseded by {entry.superseded_by}" if entry.superseded_by else ""
                size = counted(entry.bytes, "byte")
                print(f"{entry.id}  {minute(entry.time)}  {entry.state:7}  {where}  {size}{version}{level}{gone}")
    if args.json:
        print_json({"entries": plain, "total": total, "next": after})
    elif after is not None:
        note(f"{count:,} of {total:,}; the next page: --after {after}")
    elif not count:
        note(f"{scope.user!r} has no memories {'behind this place' if total else 'here'}")
    return DONE if count else NOTHING


def _pages(store: MemoryStore, scope: Scope, after: str | None, limit: int | None) -> Iterator[Page]:
    left = limit
    while left is None or left > 0:
        page = store.list(**whose(scope), after=after, limit=PAGE if left is None else min(PAGE, left))
        yield page
        after = page.next
        if after is None:
            return
        left = None if left is None else left - len(page)
