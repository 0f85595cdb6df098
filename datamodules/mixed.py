"""Batches of several data modules in one training, in shares given by weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule

from datamodules.corpus import Corpus
from datamodules.pair_batch import PairBatch
from datamodules.pairs import PairDataModule, PairLoader
from datamodules.resumable_loader import check_state
from datamodules.run_parts import overfits
from datamodules.text_data import Split
from r3mem.errors import ConfigError
from r3mem.model.run_contract import DataSide, HasDataSide


class MixedLoader:
    """Batches of several loaders, each whole from one of them.

    An epoch has as many batches as the loaders together; loader i gives its share of them by weight, in places drawn
    anew every epoch. A loader that comes to its end begins its next epoch, whenever that is: of its rows none comes a
    second time before all have come once.

    Args:
        loaders: The loaders.
        weights: Share of each, in any unit.
        seed: Of the places.
        shuffled: Draw the places anew every epoch; False for the same ones in every epoch.
    """

    def __init__(self, loaders: list[PairLoader], weights: list[float], seed: int = 0, shuffled: bool = True) -> None:
        self.loaders, self.weights, self.seed, self.shuffled = loaders, weights, seed, shuffled
        total = sum(len(loader) for loader in loaders)
        ends = np.round(np.cumsum(weights) / np.sum(weights) * total).astype(int)
        #: Batches of each loader in an epoch.
        self.counts: list[int] = np.diff(ends, prepend=0).tolist()
        self.epoch = 0
        self._delivered = 0
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def sampler(self) -> MixedLoader:
        """Itself: trainers look for ``set_epoch`` at a loader's ``sampler``."""
        return self

    @property
    def batch_sampler(self) -> MixedLoader:
        """Itself, for the same reason."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch from the next iteration on."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[PairBatch]:
        resume = self._resume
        self._resume = None
        self._delivered = resume[1] if resume is not None and resume[0] == self.epoch else 0
        order = self._order(self.epoch)
        epoch = self.epoch if self.shuffled else 0
        before = np.bincount(order[: self._delivered], minlength=len(self.loaders))
        streams = [
            self._endless(loader, epoch * count + int(n))
            for loader, count, n in zip(self.loaders, self.counts, before, strict=True)
        ]
        for which in order[self._delivered :].tolist():
            batch = next(streams[which])
            self._delivered += 1
            yield batch

    def _order(self, epoch: int) -> np.ndarray:
        order = np.repeat(np.arange(len(self.loaders)), self.counts)
        return np.random.default_rng([self.seed, epoch if self.shuffled else 0]).permutation(order)

    @staticmethod
    def _endless(loader: PairLoader, first: int) -> Iterator[PairBatch]:
        """Batches of a loader over all its epochs, from number ``first`` on."""
        while True:
            epoch, batch = divmod(first, len(loader))
            loader.batch_sampler.set_epoch(epoch)
            for found in loader.batches(batch):
                yield found
                first += 1

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches delivered; the same on every rank."""
        return {
            "epoch": self.epoch,
            "batches": self._delivered,
            "rows": self._rows,
            "fingerprint": self._fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch that was delivered when the state was taken.

        Args:
            state: What ``state_dict`` gave.

        Raises:
            ConfigError: If the batches would not be the ones that the stopped run had before it.
        """
        check_state(state, self._rows, self._fingerprint())
        self.set_epoch(state["epoch"])
        self._resume = (state["epoch"], state["batches"])
        self._delivered = state["batches"]

    @property
    def _rows(self) -> int:
        return max(loader.batch_sampler.rows for loader in self.loaders)

    def _fingerprint(self) -> str:
        parts = [
            *(loader.batch_sampler.fingerprint() for loader in self.loaders),
            self.counts,
            self.seed,
            self.shuffled,
        ]
        return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


class MixedDataModule(LightningDataModule, HasDataSide):
    """Trains on several data sets of pairs at once; evaluates on each by itself, in their order.

    Args:
        modules: Data modules that give :class:`PairBatch`.
        weights: Share of each in the training batches, in any unit.
        seed: Of the order in which they come.

    Raises:
        ConfigError: If there is nothing to mix, or a weight makes no sense.
    """

    def __init__(self, modules: list[LightningDataModule], weights: list[float], seed: int = 0) -> None:
        super().__init__()
        if not modules or len(modules) != len(weights) or min(weights) <= 0:
            raise ConfigError(
                f"{len(modules)} modules and weights {weights}: give at least one module, and a weight above 0 for each"
            )
        for module in modules:
            if not isinstance(module, PairDataModule):
                raise ConfigError(
                    f"{type(module).__name__} does not give pair batches: mix HierarchyDataModule, "
                    "QuestionsDataModule and ConversationsDataModule"
                )
        self.modules: list[PairDataModule[Corpus[Any]]] = modules  # type: ignore[assignment]
        self.weights, self.seed = weights, seed

    def setup(self, stage: str | None = None) -> None:
        """Set all modules up; see :meth:`TextDataModule.setup`."""
        for module in self.modules:
            module.trainer = self.trainer
            module.setup(stage)

    def data_side(self) -> DataSide:
        """See :meth:`HasDataSide.data_side`; nothing but the defaults, as of each module."""
        return DataSide()

    def documents(self, split: Split) -> list[Corpus[Any]]:
        """The documents of a split, one corpus a module."""
        return [module.documents(split) for module in self.modules]

    def train_dataloader(self) -> MixedLoader:
        """Batches of all modules by weight; resumable in mid-epoch."""
        loaders = [module.train_dataloader() for module in self.modules]
        return MixedLoader(loaders, self.weights, self.seed, not overfits(self.trainer))

    def val_dataloader(self) -> list[PairLoader]:
        """The validation splits that are not empty, one loader each."""
        loaders = [module.val_dataloader() for module in self.modules]
        return [loader for loader in loaders if not isinstance(loader, list)]

    def test_dataloader(self) -> list[PairLoader]:
        """The test splits, one loader each."""
        return [module.test_dataloader() for module in self.modules]
