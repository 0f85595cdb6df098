"""A persistent memory: kept in SQLite or PostgreSQL, found, corrected, forgotten and given back word for word."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from r3mem.errors.extras import check_installed

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
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}
_NEED_EXTRA = ("async_store", "policies", "store")


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _MODULE_OF[name] in _NEED_EXTRA:
        check_installed("store", "the memory store")
    found = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
