"""Entries by where they are from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from r3mem.errors import NotFound
from r3mem.store.scope import Scope
from r3mem.store.shell.opening import whose

if TYPE_CHECKING:
    from collections.abc import Iterator

    from r3mem.store import Entry, MemoryStore

PAGE = 1_000


def all_entries(store: MemoryStore, scope: Scope) -> Iterator[Entry]:
    """Every entry of a scope, page by page.

    Args:
        store: Open.
        scope: Whose.
    """
    after = None
    while True:
        page = store.list(**whose(scope), after=after, limit=PAGE)
        yield from page
        after = page.next
        if after is None:
            return


def entries_of(store: MemoryStore, scope: Scope, source: str) -> list[Entry]:
    """Entries of a source, in the order in which they were added.

    Args:
        store: Open.
        scope: Whose.
        source: As it was given, or the path of a file, from the working folder too.

    Raises:
        NotFound: The user has none.
    """
    names = {source, str(Path(source).absolute())}
    found = [entry for entry in all_entries(store, scope) if (entry.source in names and entry.level != "consolidated")
             or (entry.source in names and entry.part_of is not None)]  # fmt: skip
    if not found:
        raise NotFound(f"no memory of {scope.user!r} is from {source}: r3mem list shows where each is from")
    return found


def newest_run(entries: list[Entry]) -> list[Entry]:
    """The entries of the last time that a source was remembered, in its order.

    Args:
        entries: Of one source, in the order in which they were added.
    """
    begin = max((at for at, entry in enumerate(entries) if entry.start == 0), default=0)
    return entries[begin:]
