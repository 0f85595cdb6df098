"""The shared tests of compressors, for ``RecencyPool``, and how it divides tokens among slots."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r3mem import ConfigError
from r3mem.compressors import MeanPool, RecencyPool
from r3mem.memory import MemoryState, Segments, slots_needed
from tests.battery.compressor import HiddenStateBattery
from tests.tiny_models import WIDTH


class TestRecencyPool(HiddenStateBattery):
    build = staticmethod(partial(RecencyPool, WIDTH, write_layer=2, read_layer=1))


def divided(pool: RecencyPool, length: int) -> list[list[int]]:
    """Tokens of every slot."""
    stands_KN = pool._stands(torch.tensor([length]), length, slots_needed(length, pool.ratio), pool.ratio)[0]
    return [row_N.nonzero()[:, 0].tolist() for row_N in stands_KN]


def test_the_newest_tokens_stand_alone() -> None:
    assert divided(RecencyPool(WIDTH, ratio=3, recent=0.5), 12) == [list(range(5)), list(range(5, 10)), [10], [11]]


@given(length=st.integers(1, 300), ratio=st.integers(1, 20), recent=st.floats(0, 1))
def test_every_token_has_one_slot_and_every_slot_a_token(length: int, ratio: int, recent: float) -> None:
    slots = divided(RecencyPool(WIDTH, ratio, recent=recent), length)
    assert [token for slot in slots for token in slot] == list(range(length))
    assert all(slots)


def test_without_recent_slots_it_is_mean_pooling() -> None:
    text = Segments(torch.zeros(2, 24, dtype=torch.long), torch.tensor([24, 24]))
    states_BND = torch.randn(2, 24, WIDTH, generator=torch.Generator().manual_seed(0))
    even, mean = RecencyPool(WIDTH, 4, recent=0.0), MeanPool(WIDTH, 4)
    torch.testing.assert_close(even.pool(states_BND, text), mean.pool(states_BND, text))
    memory = MemoryState(torch.zeros(2, 6, WIDTH), text.lengths_B, 4)
    assert torch.equal(even.positions(memory), mean.positions(memory))


def test_slots_stand_where_their_tokens_stood() -> None:
    memory = MemoryState(torch.zeros(1, 4, WIDTH), torch.tensor([12]), 3)
    assert RecencyPool(WIDTH, 3, recent=0.5).positions(memory).tolist() == [[2, 7, 10, 11]]


@pytest.mark.parametrize("recent", [-0.1, 1.5])
def test_recent_is_a_share(recent: float) -> None:
    with pytest.raises(ConfigError, match="is not a share"):
        RecencyPool(WIDTH, 4, recent=recent)
