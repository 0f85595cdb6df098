"""A bank of constant size: instead of being forgotten, the oldest memories are aggregated."""

from __future__ import annotations

from r3mem.errors import ConfigError
from r3mem.store.forgetting.base import Forgetting, oldest_first
from r3mem.store.shelf import Shelf


class ElasticBank(Forgetting):
    """Keeps a number of memories: where there are more, the oldest two that are neighbours in time become one.

    The two with the fewest bytes together, of the older half, are merged, again and again; so the older, the coarser
    (after Neural Storage and Recurrent Dynamic Embedding). Every text can still be recalled: what shrinks is the number
    of memories and their virtual tokens. A pair of more than ``most_bytes`` is not merged; where no other is left, the
    oldest memory is erased.

    Args:
        size: Memories that are kept.
        ratio: Text tokens per virtual token of what is aggregated.
        most_bytes: Bytes of text of one memory at most.
    """

    def __init__(self, size: int, ratio: int = 16, most_bytes: int = 64_000) -> None:
        if size < 1 or ratio < 1 or most_bytes < 1:
            raise ConfigError("ElasticBank takes size, ratio and most_bytes of at least 1")
        self.size, self.ratio, self.most_bytes = size, ratio, most_bytes

    def run(self, shelf: Shelf) -> int:
        """See :class:`Forgetting`."""
        # Groups of neighbours are chosen first and merged once each: no text is recalled more than once.
        bank = [([e.id], e.bytes) for e in oldest_first(shelf)]
        doomed = list[str]()
        before = len(bank)
        while len(bank) > self.size:
            pairs = range(max(1, len(bank) // 2))
            fitting = [i for i in pairs if i + 1 < len(bank) and bank[i][1] + bank[i + 1][1] <= self.most_bytes]
            if not fitting:
                doomed += bank.pop(0)[0]
                continue
            at = min(fitting, key=lambda i: bank[i][1] + bank[i + 1][1])
            bank[at : at + 2] = [(bank[at][0] + bank[at + 1][0], bank[at][1] + bank[at + 1][1])]
        for ids, _ in bank:
            if len(ids) > 1:
                shelf.merge(ids, self.ratio)
        shelf.delete(doomed)
        return before - len(bank)
