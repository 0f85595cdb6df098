"""Erase memories: every version, its text, virtual tokens and words, and the bytes that they had in the store's files.

Give ids, or one of the options below. They are about all of the user, or one agent or session.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from r3mem.errors import InputError
from r3mem.store.scope import Scope
from r3mem.store.shell.opening import add_model, add_policies, add_scope, confirm, opened, scope_of, whose
from r3mem.store.shell.output import counted, note, print_json
from r3mem.store.shell.progress import Progress
from r3mem.store.shell.running import DONE, NOTHING, REFUSED
from r3mem.store.shell.sources import entries_of

if TYPE_CHECKING:
    from r3mem.store import MemoryStore
    from r3mem.store.forgetting import Forgetting

WAYS = ("source", "all", "older_than", "keep", "keep_bytes", "bank")


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    p.add_argument("ids", nargs="*", metavar="ID", help="as list and search tell them; all of them or none")
    p.add_argument("--source", metavar="NAME", help="all that is from this file")
    p.add_argument("--all", action="store_true", help="all; asks first")
    p.add_argument("--older-than", type=float, metavar="DAYS", help="what was written longer ago")
    p.add_argument("--keep", type=int, metavar="N", help="all but the newest N")
    p.add_argument("--keep-bytes", type=int, metavar="N", help="the oldest beyond N bytes of text")
    p.add_argument("--bank", type=int, metavar="N", help="merge the oldest until N memories are left; texts stay")
    p.add_argument("--yes", action="store_true", help="do not ask")
    add_model(p)
    add_policies(p)
    add_scope(p)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    scope = scope_of(args)
    ways = [way for way in WAYS if getattr(args, way) not in (None, False)] + (["ids"] if args.ids else [])
    if not ways and args.policies is not None:
        ways = ["policies"]
    if len(ways) != 1:
        options = ", ".join("--" + way.replace("_", "-") for way in WAYS)
        args.parser.error(f"what is to be forgotten? Give ids, --policies, or one of {options}")
    with opened(args) as store:
        if args.all:
            whole = scope.agent is None and scope.session is None
            confirm(f"Erase {'all' if whole else 'these'} memories of {scope.user!r} for good?", args.yes)
        with Progress("erasing"):
            count = _forget(store, scope, args)
        unerased = store.unerased()
    merged = args.bank is not None
    if args.json:
        print_json(
            {"merged" if merged else "forgotten": count, "unerased": unerased is not None, "unerased_why": unerased}
        )
    elif count:
        print(f"{'merged away' if merged else 'forgot'} {counted(count, 'memory', 'memories')}")
    else:
        note(f"nothing of {scope.user!r} was to be forgotten")
    if unerased:
        note(f"bytes of what was forgotten are still in the files, and any later r3mem command erases them: {unerased}")
        return REFUSED
    return DONE if count else NOTHING


def _forget(store: MemoryStore, scope: Scope, args: argparse.Namespace) -> int:
    if args.ids:
        for id in args.ids:
            store.get(id, **whose(scope))
        return store.delete(args.ids, user=scope.user)
    if args.source is not None:
        return store.delete([entry.id for entry in entries_of(store, scope, args.source)], user=scope.user)
    if args.all:
        return store.delete_all(**whose(scope))
    return store.forget(**whose(scope), policy=_policy(args))


def _policy(args: argparse.Namespace) -> Forgetting | None:
    from r3mem.store.forgetting import ByAge, ByBytes, ByCount, ElasticBank

    if args.older_than is not None:
        # A number that is none would compare as false with everything.
        if args.older_than != args.older_than or args.older_than > 1e6:
            raise InputError(f"--older-than {args.older_than}: give a number of days")
        return ByAge(args.older_than)
    if args.keep is not None:
        return ByCount(args.keep)
    if args.keep_bytes is not None:
        return ByBytes(args.keep_bytes)
    return None if args.bank is None else ElasticBank(args.bank)
