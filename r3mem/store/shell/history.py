"""The versions of a memory, oldest first; `r3mem recall ID --version N` gives the text of each."""

from __future__ import annotations

import argparse

from r3mem.store.shell.opening import add_scope, opened, scope_of, whose
from r3mem.store.shell.output import counted, minute, print_json
from r3mem.store.shell.running import DONE


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    p.add_argument("id", metavar="ID", help="as list and search tell it")
    add_scope(p)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    scope = scope_of(args)
    with opened(args) as store:
        store.get(args.id, **whose(scope))
        versions = store.history(args.id, user=scope.user)
    if args.json:
        print_json({"versions": [version.plain() for version in versions]})
    for version in [] if args.json else versions:
        size = counted(version.bytes, "byte")
        print(f"{version.number}  {minute(version.time)}  {version.why}  {version.state}  {size}")
    return DONE
