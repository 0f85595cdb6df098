"""The persistent memory: every verb, on a database of one's own. Each verb says where its work is done."""

from __future__ import annotations

from r3mem.store.keeping import Keeping
from r3mem.store.reading import Reading
from r3mem.store.writing import Writing


class MemoryStore(Writing, Reading, Keeping):
    """Memories of many users in SQLite or PostgreSQL: open it with :meth:`open`, and close it, or use ``with``.

    Threads may share a store; processes open one each, on the same database.
    """
