"""Take in what `r3mem export` wrote, as memories of a user; what was taken in before is not doubled."""

from __future__ import annotations

import argparse
from pathlib import Path

from r3mem.store.shell.opening import add_compression, add_scope, opened, scope_of
from r3mem.store.shell.output import counted, print_json
from r3mem.store.shell.progress import Progress, compress
from r3mem.store.shell.running import DONE


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    p.add_argument("file", metavar="FILE", help="what r3mem export wrote")
    add_compression(p)
    add_scope(p, narrow=False)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    scope = scope_of(args)
    with opened(args, make=True) as store:
        with Progress("importing"):
            count = store.import_(Path(args.file).expanduser(), user=scope.user)
        if args.wait:
            compress(store)
        pending = store.stats(user=scope.user).pending
    if args.json:
        print_json({"entries": count, "pending": pending})
    else:
        wait = f"; {counted(pending, 'text')} pending: r3mem stats --wait compresses" if pending else ""
        print((f"{counted(count, 'entry', 'entries')} taken in" if count else "all were there already") + wait)
    return DONE
