"""Several ways of finding as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from r3mem.errors import ConfigError
from r3mem.store.indexing.base import Indexing
from r3mem.store.shelf import Shelf


class Fused(Indexing):
    """Adds up the reciprocal ranks that several policies give (Cormack et al. 2009, SIGIR).

    Args:
        policies: What is fused, such as ``[FullText(), Likelihood()]``.
        first: How many entries of each policy count.
        constant: Added to every rank; the larger, the less the first places count.
    """

    def __init__(self, policies: Sequence[Indexing], first: int = 50, constant: int = 60) -> None:
        if not policies or first < 1 or constant < 0:
            raise ConfigError("Fused takes at least one policy, first of at least 1 and a constant of at least 0")
        self.policies, self.first, self.constant = policies, first, constant

    def rank(self, query: str, shelf: Shelf, k: int) -> list[tuple[str, float]]:
        """See :class:`Indexing`."""
        shares = dict[str, list[float]]()
        for policy in self.policies:
            for rank, (id, _) in enumerate(policy.rank(query, shelf, max(self.first, k)), 1):
                shares.setdefault(id, []).append(1 / (self.constant + rank))
        fused = [(id, math.fsum(each)) for id, each in shares.items()]
        return sorted(fused, key=lambda pair: -pair[1])[:k]
