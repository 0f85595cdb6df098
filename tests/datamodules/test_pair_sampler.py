"""The order of rows: every one once, whatever the ranks and sizes."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.pair_sampler import PairSampler, RowDraw
from r3mem.errors import ConfigError


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(1, 60), world_size=st.integers(1, 6), batch_size=st.integers(1, 9), seed=st.integers(0, 3),
    epoch=st.integers(0, 3), shuffled=st.booleans(),
)  # fmt: skip
def test_the_ranks_of_an_epoch_together_are_every_row_once(
    count: int, world_size: int, batch_size: int, seed: int, epoch: int, shuffled: bool
) -> None:
    ranks = []
    for rank in range(world_size):
        sampler = PairSampler(count, shuffled, batch_size, rank, world_size, seed)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler) and all(len(batch) == batch_size for batch in ranks[-1])
        for first in range(len(sampler)):
            assert list(sampler.batches(first)) == ranks[-1][first:]
    draws = list(chain.from_iterable(chain.from_iterable(ranks)))
    assert sorted(draw.row for draw in draws if draw.row >= 0) == list(range(count))
    # Empty rows stand in the last batch alone, behind all others, and are fewer than a batch of all ranks.
    last = list(chain.from_iterable(batches[-1] for batches in ranks))
    empty = [draw.row < 0 for draw in last]
    assert sum(draw.row < 0 for draw in draws) == sum(empty) < world_size * batch_size
    assert empty == sorted(empty)


def test_draws_belong_to_row_and_epoch_alone() -> None:
    def seeds(world_size: int, epoch: int) -> dict[int, tuple[int, ...] | None]:
        found = {}
        for rank in range(world_size):
            sampler = PairSampler(10, True, 2, rank, world_size, seed=3)
            sampler.set_epoch(epoch)
            found.update({draw.row: draw.seed for draw in chain.from_iterable(sampler) if draw.row >= 0})
        return found

    assert seeds(1, 0) == seeds(2, 0) != seeds(1, 1)
    assert len(set(seeds(1, 0).values())) == 10
    assert list(PairSampler(2, False, 3)) == [[RowDraw(0), RowDraw(1), RowDraw(-1)]]


def test_orders_differ_between_epochs_and_seeds() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = PairSampler(50, True, 5, seed=seed)
        sampler.set_epoch(epoch)
        return [draw.row for draw in chain.from_iterable(sampler)]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_fingerprints_tell_runs_apart() -> None:
    samplers = [
        PairSampler(9), PairSampler(10), PairSampler(9, shuffled=False), PairSampler(9, seed=1),
        PairSampler(9, batch_size=3), PairSampler(9, content="x"),
    ]  # fmt: skip
    assert len({sampler.fingerprint() for sampler in samplers}) == len(samplers)
    assert PairSampler(9, world_size=2, rank=0).fingerprint() == PairSampler(9, world_size=2, rank=1).fingerprint()


def test_impossible_places() -> None:
    with pytest.raises(ConfigError, match="batch_size 0"):
        PairSampler(3, batch_size=0)
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        PairSampler(3, rank=2, world_size=2)
