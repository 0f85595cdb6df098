"""Read every memory in the store, whoever's it is, and name what is damaged or gone; --reindex makes the index anew."""

from __future__ import annotations

import argparse

from r3mem.store.shell.opening import add_model, add_scope, opened
from r3mem.store.shell.output import counted, note, print_json, seen
from r3mem.store.shell.progress import Progress
from r3mem.store.shell.running import DONE, REFUSED


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    p.add_argument("--recall", action="store_true", help="recall texts too, by the model, and compare them: slow")
    p.add_argument(
        "--reindex", action="store_true", help="make the full-text index anew first; nobody writes meanwhile"
    )
    add_model(p)
    add_scope(p, narrow=False, user=False)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    with opened(args) as store:
        if args.reindex:
            with Progress("indexing"):
                count = store.reindex(recall=args.recall)
            note(f"made the index anew, of {counted(count, 'text')}")
        with Progress("checking"):
            found = store.check(recall=args.recall)
    if args.json:
        print_json({"problems": [problem.plain() for problem in found]})
    for problem in [] if args.json else found:
        whose = "" if problem.user is None else f"{seen(problem.user)}: "
        print(f"{whose}{seen(problem.what)}")
    if not found and not args.json:
        print("no damage was found")
    return REFUSED if found else DONE
