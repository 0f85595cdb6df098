"""What every order of batches has: repeatable, split over ranks, and entered anywhere."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np

from r3mem.errors import ConfigError

RowT = TypeVar("RowT")


class BatchSampler(ABC, Generic[RowT]):
    """A repeatable order of batches: everything follows from the constructor's arguments and the epoch.

    Args:
        batch_size: B.
        rank: This process among those that split the rows.
        world_size: How many there are.
        seed: Of the order.
    """

    def __init__(self, batch_size: int, rank: int = 0, world_size: int = 1, seed: int = 0) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: it must be 1 or more")
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of {world_size}: it must be between 0 and {world_size - 1}")
        self.batch_size, self.rank, self.world_size, self.seed = batch_size, rank, world_size, seed
        self.epoch = 0

    @property
    def sampler(self) -> BatchSampler[RowT]:
        """Itself: trainers look for ``set_epoch`` at a batch sampler's ``sampler``."""
        return self

    @property
    def rows(self) -> int:
        """G, the rows of all ranks together."""
        return self.batch_size * self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch from the next iteration on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[RowT]]:
        return self.batches(0)

    @abstractmethod
    def __len__(self) -> int:
        """Batches of an epoch; the same on every rank and in every epoch."""

    @abstractmethod
    def batches(self, first: int) -> Iterator[list[RowT]]:
        """This rank's batches of the epoch from number ``first`` on, found without going through those before."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Digest of all that decides the order: equal fingerprints give equal batches."""

    def _digest(self, *parts: object) -> str:
        state = hashlib.blake2b(digest_size=8)
        for part in (type(self).__name__, self.rows, self.seed, *parts):
            state.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
        return state.hexdigest()
