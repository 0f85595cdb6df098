"""A persistent memory: kept in SQLite or PostgreSQL, found, corrected, forgotten and given back word for word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r3mem.plain_data.lazy_names import lazy_names

if TYPE_CHECKING:
    from r3mem.store.async_store import AsyncMemoryStore
    from r3mem.store.entries import Entry, Hit, Page, Turn, Version
    from r3mem.store.policies import Policies
    from r3mem.store.reports import Consolidated, Problem, Stats
    from r3mem.store.scope import Scope
    from r3mem.store.store import MemoryStore

__all__ = [
    "AsyncMemoryStore",
    "Consolidated",
    "Entry",
    "Hit",
    "MemoryStore",
    "Page",
    "Policies",
    "Problem",
    "Scope",
    "Stats",
    "Turn",
    "Version",
]

# Where each name is. A module is imported when one of its names is first used, so that help and data cost nothing.
_PLACES = {
    "async_store": ("AsyncMemoryStore",),
    "entries": ("Entry", "Hit", "Page", "Turn", "Version"),
    "policies": ("Policies",),
    "reports": ("Consolidated", "Problem", "Stats"),
    "scope": ("Scope",),
    "store": ("MemoryStore",),
}
_NEEDS = dict.fromkeys(("async_store", "policies", "store"), (("store", "the memory store"),))
__getattr__, __dir__ = lazy_names(__name__, _PLACES, needs=_NEEDS)
