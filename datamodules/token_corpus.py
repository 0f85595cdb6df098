"""The tokens of several sources seen as one numbered list of documents."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datamodules.corpus import Corpus
from datamodules.text_store import TextStore


class TokenCorpus(Corpus[TextStore]):
    """Documents of several stores, all of them or a selection; see :class:`Corpus`."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""
        return self.counts("ids")

    def read(self, document: int, start: int, stop: int) -> NDArray[np.int64]:
        """Ids ``start`` to ``stop`` of a document, read from disk."""
        store, own = self.locate(document)
        return store.read(own, start, stop)
