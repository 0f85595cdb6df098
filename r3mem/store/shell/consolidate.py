"""Merge old memories of one session, or of one day, into coarser ones. Each text can be recalled as before."""

from __future__ import annotations

import argparse

from r3mem.errors import InputError
from r3mem.store.shell.opening import add_compression, add_policies, add_scope, opened, scope_of, whose
from r3mem.store.shell.output import counted, print_json
from r3mem.store.shell.progress import Progress, compress
from r3mem.store.shell.running import DONE


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    p.add_argument("--older-than", type=float, metavar="DAYS", help="what is older; 30 if --keep is left out too")
    p.add_argument("--keep", type=int, metavar="N", help="what is beyond the newest N")
    p.add_argument("--ratio", type=int, metavar="N", help="text tokens per virtual token (16)")
    add_compression(p)
    add_policies(p)
    add_scope(p)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    scope = scope_of(args)
    days = args.older_than
    if args.ratio is not None and args.ratio < 1:
        raise InputError(f"--ratio {args.ratio}: give 1 or more")
    if days is not None and not -1 < days < 1e6:
        raise InputError(f"--older-than {days}: give a number of days")
    with opened(args) as store:
        from r3mem.store.consolidation import Merge

        own = days is None and args.keep is None and args.ratio is None
        # The store's own policy, or one that is made of the options.
        limit = 30.0 if days is None and args.keep is None else days
        policy = None if own else Merge(limit, args.keep, args.ratio or 16)
        with Progress("consolidating"):
            done = store.consolidate(**whose(scope), policy=policy)
        if args.wait:
            compress(store)
        pending = store.stats(user=scope.user).pending
    if args.json:
        print_json({**done.plain(), "pending": pending})
    elif not done.merged:
        print("nothing was due")
    else:
        merged, made = counted(done.merged, "memory", "memories"), f"{done.made:,}"
        print(f"merged {merged} into {made}" + (f"; {counted(pending, 'text')} pending" if pending else ""))
    return DONE
