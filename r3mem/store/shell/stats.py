"""How much is kept, waits for compression and failed; with --wait all that waits in the store is compressed first."""

from __future__ import annotations

import argparse

from r3mem.store.shell.opening import add_compression, add_scope, opened, scope_of
from r3mem.store.shell.output import note, print_json, seen
from r3mem.store.shell.progress import compress
from r3mem.store.shell.running import DONE, NOTHING


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    p.add_argument("--whole", action="store_true", help="of the whole store instead of one user")
    add_compression(p)
    add_scope(p, narrow=False)


def run(args: argparse.Namespace) -> int:
    """Run the command; its exit code."""
    user = None if args.whole else scope_of(args).user
    with opened(args) as store:
        if args.wait:
            compress(store)
        told = store.stats(user=user)
        url = store.url
    if args.json:
        print_json({"store": url, "user": user, **told.plain()})
        return DONE if told.entries else NOTHING
    print(f"store {seen(url)}" + ("" if user is None else f", user {seen(user)}"))
    users = f" of {told.users:,} users" if user is None else ""
    print(f"{told.entries:,} entries{users}, {told.versions:,} versions, {told.contents:,} texts")
    print(f"{told.pending:,} pending, {told.failed:,} failed")
    for reason, count in told.reasons.items():
        print(f"  {count:,}: {seen(reason)}")
    print(f"{told.tokens:,} tokens in {told.positions:,} virtual tokens")
    sizes = [f"texts {told.text_bytes:,} (raw {told.raw_bytes:,})", f"virtual tokens {told.blob_bytes:,}"]
    sizes += [f"index {told.index_bytes:,}"] + ([f"files {told.disk_bytes:,}"] if user is None else [])
    print(f"bytes: {', '.join(sizes)}")
    for model, count in told.models.items():
        print(f"made by {seen(model)}: {count:,}")
    if told.unerased:
        note(f"bytes of what was forgotten are still in the files: {told.unerased_why}")
    return DONE if told.entries else NOTHING
