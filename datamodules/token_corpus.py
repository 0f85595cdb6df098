"""Several token caches seen as one numbered list of documents, and the split of such a list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datamodules.token_cache import TokenCache


class TokenCorpus:
    """Documents of several caches, all of them or a selection.

    Args:
        caches: The caches, in order.
        selection: Numbers of the documents kept, ascending, counted over all caches; None for all.
    """

    def __init__(self, caches: Sequence[TokenCache], selection: NDArray[np.int64] | None = None) -> None:
        self.caches = list(caches)
        self._first = np.cumsum([0, *(len(cache.digests) for cache in self.caches)])
        self.selection = np.arange(self._first[-1]) if selection is None else selection

    def __len__(self) -> int:
        return len(self.selection)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        every = np.concatenate([np.zeros(0, np.int64), *(np.diff(cache.offsets) for cache in self.caches)])
        return every[self.selection]

    @property
    def digests(self) -> NDArray[np.uint64]:
        """Hash of each document's text."""
        return np.concatenate([np.zeros(0, np.uint64), *(cache.digests for cache in self.caches)])[self.selection]

    def read(self, document: int, start: int, stop: int) -> NDArray[np.int64]:
        """Ids ``start`` to ``stop`` of a document, read from disk."""
        cache, own = self._locate(document)
        return cache.read(own, start, stop)

    def origin(self, document: int) -> str:
        """Where a document stood, for example ``books.jsonl:3``."""
        cache, own = self._locate(document)
        return cache.origins[own]

    def keep(self, mask: NDArray[np.bool_]) -> TokenCorpus:
        """The documents marked True, in their order."""
        return TokenCorpus(self.caches, self.selection[mask])

    def split(self, validation_fraction: float, test_fraction: float) -> tuple[TokenCorpus, TokenCorpus, TokenCorpus]:
        """Train, validation and test documents, told apart by the hash of each document's text.

        A document stays in its part when others are added, removed or reordered, and equal documents share a part.

        Args:
            validation_fraction: Share of the documents, about.
            test_fraction: The same for the test part.
        """
        place = self.digests.astype(np.float64) / 2.0**64
        test = place < test_fraction
        validation = ~test & (place < test_fraction + validation_fraction)
        return self.keep(~test & ~validation), self.keep(validation), self.keep(test)

    def _locate(self, document: int) -> tuple[TokenCache, int]:
        number = int(self.selection[document])
        part = int(np.searchsorted(self._first, number, side="right")) - 1
        return self.caches[part], number - int(self._first[part])
