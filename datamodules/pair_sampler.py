"""Which row stands where: every row of a split once an epoch, over all ranks together.

The rows of an epoch in their order (drawn anew every epoch, or as they are), G = B * ranks a batch; rank r has rows
r * B to (r + 1) * B - 1 of each G, so two ranks with B rows see what one rank with 2 B sees. The last batch ends in
empty rows::

    batch      0        1        2
    rank 0   [4 1]    [0 6]    [5 -]
    rank 1   [3 7]    [8 2]    [- -]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from datamodules.batch_sampler import BatchSampler


class RowDraw(NamedTuple):
    """A row to be read.

    Attributes:
        row: Its number; -1 for an empty row.
        seed: Of what is drawn while it is read (a query, negatives); None where nothing is: the first query is taken.
    """

    row: int
    seed: tuple[int, ...] | None = None


class PairSampler(BatchSampler[RowDraw]):
    """Every row once an epoch.

    Args:
        count: Number of rows.
        shuffled: Draw the order, and what rows draw, anew every epoch; False for the rows as they are.
        batch_size: B.
        rank: This process among those that split the rows.
        world_size: How many there are.
        seed: Of the draws.
        content: Digest of what the rows hold: a run is resumed with the same content only.
    """

    def __init__(
        self,
        count: int,
        shuffled: bool = True,
        batch_size: int = 8,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        content: str = "",
    ) -> None:
        super().__init__(batch_size, rank, world_size, seed)
        self.count, self.shuffled, self.content = count, shuffled, content

    def __len__(self) -> int:
        return -(-self.count // self.rows)

    def fingerprint(self) -> str:
        return self._digest(self.count, self.shuffled, self.content)

    def batches(self, first: int) -> Iterator[list[RowDraw]]:
        # Taken once: the order stays that of the epoch in which the iteration began.
        epoch = self.epoch
        order = np.random.default_rng([self.seed, epoch]).permutation(self.count) if self.shuffled else None
        for batch in range(first, len(self)):
            begin = batch * self.rows + self.rank * self.batch_size
            yield [self._draw(place, order, epoch) for place in range(begin, begin + self.batch_size)]

    def _draw(self, place: int, order: np.ndarray | None, epoch: int) -> RowDraw:
        if place >= self.count:
            return RowDraw(-1)
        if order is None:
            return RowDraw(place)
        row = int(order[place])
        # The row's own, not the rank's: what is drawn does not depend on how rows are split.
        return RowDraw(row, (self.seed, epoch, row))
