"""A loader that can stop in mid-epoch and go on at the very next batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader

from datamodules.batch_sampler import BatchSampler
from r3mem.errors import ConfigError

BatchT = TypeVar("BatchT", covariant=True)


class Rows(Protocol[BatchT]):
    """Reads rows and lays them out as a batch."""

    def __getitem__(self, row: Any, /) -> Any:
        """What the sampler's ``row`` asks for."""

    def collate(self, rows: list[Any]) -> BatchT:
        """One batch of what was read."""


class _From:
    """The batches of a sampler from some number on."""

    def __init__(self, sampler: BatchSampler[Any], first: int) -> None:
        self.sampler, self.first = sampler, first

    def __iter__(self) -> Iterator[list[Any]]:
        return self.sampler.batches(self.first)

    def __len__(self) -> int:
        return len(self.sampler) - self.first


class ResumableLoader(Generic[BatchT]):
    """Batches in the sampler's order, with a state that Lightning puts into every checkpoint.

    Not a subclass of torch's ``DataLoader`` on purpose: Lightning rebuilds those with samplers of its own (for
    distributed runs, prediction and overfitting), which would undo the split over ranks and the order of the rows.

    Args:
        rows: Reads the rows.
        batch_sampler: Says what they hold.
        num_workers: Processes that read ahead; 0 reads in this one.
        pin_memory: Put batches into memory that a GPU copies from faster.
    """

    def __init__(
        self, rows: Rows[BatchT], batch_sampler: BatchSampler[Any], num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.rows, self.batch_sampler = rows, batch_sampler
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self._delivered = 0
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[BatchT]:
        resume = self._resume
        self._resume = None
        # The trainer asks for the iterator before it sets the epoch: look at the epoch only here, at the first batch.
        self._delivered = resume[1] if resume is not None and resume[0] == self.batch_sampler.epoch else 0
        for batch in self.batches(self._delivered):
            # Counted here, in the process that trains: workers are ahead of what was delivered.
            self._delivered += 1
            yield batch

    def batches(self, first: int) -> Iterator[BatchT]:
        """The batches of the sampler's epoch from number ``first`` on; what the loader remembers stays as it is.

        Args:
            first: Number of the first one.
        """
        yield from DataLoader(
            self.rows,  # type: ignore[arg-type]
            batch_sampler=_From(self.batch_sampler, first),
            collate_fn=self.rows.collate,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            # Its own generator: the loader draws a seed for its workers, which must not shift the model's dropout.
            generator=torch.Generator().manual_seed(self.batch_sampler.seed),
        )

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches delivered; the same on every rank."""
        return {
            "epoch": self.batch_sampler.epoch,
            "batches": self._delivered,
            "rows": self.batch_sampler.rows,
            "fingerprint": self.batch_sampler.fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch that was delivered when the state was taken.

        Args:
            state: What ``state_dict`` gave.

        Raises:
            ConfigError: If the batches would not be the ones that the stopped run had before it.
        """
        check_state(state, self.batch_sampler.rows, self.batch_sampler.fingerprint())
        self.batch_sampler.set_epoch(state["epoch"])
        self._resume = (state["epoch"], state["batches"])
        self._delivered = state["batches"]


def check_state(state: dict[str, Any], rows: int, fingerprint: str) -> None:
    """Refuse the state of a loader whose batches were others.

    Args:
        state: What ``state_dict`` gave.
        rows: Rows of all ranks' batches together, now.
        fingerprint: Digest of all that decides the batches, now.

    Raises:
        ConfigError: Saying which of the two differs.
    """
    if state["rows"] != rows:
        raise ConfigError(
            f"the checkpoint was made with {state['rows']} rows a step (batch_size times processes), now there are "
            f"{rows}: set batch_size so that the product is the same, or start a new run from the weights"
        )
    if state["fingerprint"] != fingerprint:
        raise ConfigError(
            "the checkpoint was made with other training documents, seed, mode or segment sizes: restore those "
            "settings to resume, or start a new run from the weights"
        )
