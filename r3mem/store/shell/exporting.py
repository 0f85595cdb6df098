"""Write all memories of a user, with their texts and virtual tokens, to one zip file that can be read without r3mem.

A folder, a name ending in .ckpt, or --out exports a checkpoint of a training instead: r3mem export CKPT --out DIR.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from r3mem.errors import InputError
from r3mem.store.shell.opening import add_model, add_scope, opened, scope_of
from r3mem.store.shell.output import counted, note, print_json
from r3mem.store.shell.progress import Progress
from r3mem.store.shell.running import DONE, NOTHING


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    p.add_argument("file", metavar="FILE", help="the file to write, such as memories.zip")
    p.add_argument("--force", action="store_true", help="write over a file that is there")
    add_model(p)
    add_scope(p, narrow=False)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    scope = scope_of(args)
    path = Path(args.file).expanduser()
    if os.path.lexists(path) and not args.force:
        raise InputError(f"{path} is there already: give another name, or --force to write over it")
    with opened(args) as store:
        if not store.list(user=scope.user, limit=1).total:
            note(f"{scope.user!r} has no memories; nothing was written")
            return NOTHING
        with Progress("exporting"):
            count = store.export(path, user=scope.user)
    if args.json:
        print_json({"file": str(path), "entries": count})
    else:
        print(f"{counted(count, 'entry', 'entries')} written to {path}")
    return DONE
