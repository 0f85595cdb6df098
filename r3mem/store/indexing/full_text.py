"""The default."""

from __future__ import annotations

from r3mem.store.indexing.base import Indexing


class FullText(Indexing):
    """The default."""
