"""Which way of doing it a store takes, where there is more than one: each a class, named in YAML by ``class_path``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from r3mem.store.consolidation.base import Consolidation
from r3mem.store.consolidation.merge import Merge
from r3mem.store.forgetting.base import Forgetting
from r3mem.store.indexing.base import Indexing
from r3mem.store.indexing.full_text import FullText
from r3mem.store.updating.base import Updating
from r3mem.store.updating.replace import Replace


@dataclass(frozen=True)
class Policies:
    """The policies of a store. The words of every entry are indexed whatever finds and ranks them.

    Attributes:
        indexing: What finds and ranks entries for a query.
        consolidation: What merges old entries into coarser memories.
        updating: What a new entry does to older ones of its subject.
        forgetting: What :meth:`r3mem.store.MemoryStore.forget` does where no policy is given, one after the other.
    """

    indexing: Indexing = field(default_factory=FullText)
    consolidation: Consolidation = field(default_factory=Merge)
    updating: Updating = field(default_factory=Replace)
    forgetting: Sequence[Forgetting] = ()
