"""The tokens of several sources seen as one numbered list of documents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datamodules.corpus import Corpus
from datamodules.token_cache import TokenCache


class TokenCorpus(Corpus[TokenCache]):
    """Documents of several token caches, all of them or a selection; see :class:`Corpus`."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        every = np.concatenate([np.zeros(0, np.int64), *(np.diff(cache.offsets) for cache in self.stores)])
        return every[self.selection]

    def read(self, document: int, start: int, stop: int) -> NDArray[np.int64]:
        """Ids ``start`` to ``stop`` of a document, read from disk."""
        cache, own = self.locate(document)
        return cache.read(own, start, stop)

    def origin(self, document: int) -> str:
        """Where a document stood, for example ``books.jsonl:3``."""
        cache, own = self.locate(document)
        return cache.origins[own]
