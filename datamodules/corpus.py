"""Several stores on disk seen as one numbered list of documents, and the split of such a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from typing_extensions import Self

from datamodules.store import DocumentStore
from r3mem.errors import ConfigError

StoreT = TypeVar("StoreT", bound=DocumentStore)


class Corpus(Generic[StoreT]):
    """Documents of several stores, all of them or a selection.

    Args:
        stores: The stores, in order.
        selection: Numbers of the documents kept, ascending, counted over all stores; None for all.
    """

    def __init__(self, stores: Sequence[StoreT], selection: NDArray[np.int64] | None = None) -> None:
        self.stores = list(stores)
        self._first = np.cumsum([0, *(len(store.digests) for store in self.stores)])
        self.selection = np.arange(self._first[-1]) if selection is None else selection

    def __len__(self) -> int:
        return len(self.selection)

    @property
    def digests(self) -> NDArray[np.uint64]:
        """Hash of each document's text."""
        return np.concatenate([np.zeros(0, np.uint64), *(store.digests for store in self.stores)])[self.selection]

    def counts(self, column: str) -> NDArray[np.int64]:
        """Values of each document in a column that has one row a document: in ``ids``, its tokens."""
        every = [np.diff(store.columns[column].offsets) for store in self.stores]
        return np.concatenate([np.zeros(0, np.int64), *every])[self.selection]

    def origin(self, document: int) -> str:
        """Where a document stood, for example ``books.jsonl:3``."""
        store, own = self.locate(document)
        return store.origin(own)

    def keep(self, mask: NDArray[np.bool_]) -> Self:
        """The documents marked True, in their order."""
        return type(self)(self.stores, self.selection[mask])

    def split(self, validation_fraction: float, test_fraction: float) -> tuple[Self, Self, Self]:
        """Train, validation and test documents, told apart by the hash of each document's text.

        A document stays in its part when others are added, removed or reordered, and equal documents share a part. Few
        documents are the exception: a part that is asked for and would be empty takes the one whose hash is nearest,
        first for training, then for the test, then for validation, as long as another part can spare it.

        Args:
            validation_fraction: Share of the documents, about.
            test_fraction: The same for the test part.
        """
        place = self.digests.astype(np.float64) / 2.0**64
        places = np.unique(place)  # Ascending: test, validation, train.
        counts = _counts(places, test_fraction, test_fraction + validation_fraction)
        rank = np.searchsorted(places, place)
        test, validation = rank < counts[0], (rank >= counts[0]) & (rank < counts[0] + counts[1])
        return self.keep(~test & ~validation), self.keep(validation), self.keep(test)

    def locate(self, document: int) -> tuple[StoreT, int]:
        """The store that holds a document, and its number there."""
        number = int(self.selection[document])
        part = int(np.searchsorted(self._first, number, side="right")) - 1
        return self.stores[part], number - int(self._first[part])


def _counts(places: NDArray[np.float64], test_end: float, validation_end: float) -> list[int]:
    """How many of the places, from the lowest, are for the test, and how many of the next for validation."""
    ends = np.searchsorted(places, [test_end, validation_end]).tolist()
    counts = [ends[0], ends[1] - ends[0], len(places) - ends[1]]
    wanted = [test_end > 0, validation_end > test_end, True]
    for part in (2, 0, 1):
        largest = int(np.argmax(counts))
        # Training comes first: it takes even the only document of another part.
        if wanted[part] and not counts[part] and counts[largest] > (part != 2):
            counts[largest] -= 1
            counts[part] = 1
    return counts[:2]


def check_fractions(validation_fraction: float, test_fraction: float) -> None:
    """Refuse shares that leave nothing to train on.

    Raises:
        ConfigError: If one is negative, or both together are 1 or more.
    """
    if min(validation_fraction, test_fraction) < 0 or validation_fraction + test_fraction >= 1:
        raise ConfigError(
            f"validation_fraction {validation_fraction} and test_fraction {test_fraction}: neither may be "
            "negative, and together they must stay below 1, so that something is left to train on"
        )


def warn_of_shared_documents(splits: dict[str, NDArray[np.uint64]]) -> None:
    """Warn of documents that are trained on and evaluated on.

    Args:
        splits: Digests of the documents of each split.
    """
    for split in ("validation", "test"):
        if "train" not in splits or split not in splits:
            continue
        # By sorting: older versions of numpy cannot make their table of numbers of 64 bits.
        shared = np.isin(splits[split], splits["train"], kind="sort").sum()
        if shared:
            rank_zero_warn(f"{shared} documents of {split} are also in train: results on them are too good")
