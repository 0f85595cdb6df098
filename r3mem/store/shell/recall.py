"""The exact text of a memory, or of a part of it; with --source that of a whole file, as it was last remembered.

The text is written to standard output as it is, in UTF-8, and nothing else. What cannot be given back exactly is
refused.
"""

from __future__ import annotations

import argparse

from r3mem.store.shell.opening import add_model, add_scope, opened, scope_of, whose
from r3mem.store.shell.output import print_json, write_exactly
from r3mem.store.shell.progress import Progress
from r3mem.store.shell.running import DONE
from r3mem.store.shell.sources import entries_of, newest_run

PARTS = ("start", "end", "turn", "node", "version")


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    p.add_argument("id", nargs="?", metavar="ID", help="as list and search tell it")
    p.add_argument("--source", metavar="NAME", help="instead of ID: all entries of this file, one behind the other")
    p.add_argument("--start", type=int, metavar="N", help="first character")
    p.add_argument("--end", type=int, metavar="N", help="one past the last character")
    p.add_argument("--turn", type=int, metavar="N", help="of a conversation the message with this number, from 0")
    p.add_argument("--node", type=int, metavar="N", help="of a consolidated memory the part with this number, from 0")
    p.add_argument("--version", type=int, metavar="N", help="an earlier version, from 1")
    add_model(p)
    add_scope(p)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    scope = scope_of(args)
    part = {name: getattr(args, name) for name in PARTS}
    if (args.id is None) == (args.source is None):
        args.parser.error("give one of ID and --source")
    if args.source is not None and any(value is not None for value in part.values()):
        args.parser.error("--source gives the whole text: cut it yourself, or give an ID")
    with opened(args) as store, Progress("recalling"):
        if args.source is None:
            ids = [args.id]
            texts = [store.recall(args.id, **whose(scope), **part)]
        else:
            ids = [entry.id for entry in newest_run(entries_of(store, scope, args.source))]
            texts = [store.recall(id, **whose(scope)) for id in ids]
    if args.json:
        print_json({"entries": ids, "text": "".join(texts)})
    else:
        write_exactly("".join(texts))
    return DONE
