"""The shared tests of compressors, for ``EdgePool``, and how it divides tokens among slots."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from r3mem import ConfigError
from r3mem.compressors import EdgePool, MeanPool
from r3mem.memory import MemoryState, Segments, slots_needed
from r3mem.memory.states import joined
from tests.battery.compressor import HiddenStateBattery
from tests.tiny_models import WIDTH


class TestEdgePool(HiddenStateBattery):
    build = staticmethod(partial(EdgePool, WIDTH, write_layer=2, read_layer=1))


class TestEdgePoolWhereItReadsNothing(HiddenStateBattery):
    build = staticmethod(partial(EdgePool, WIDTH))


def divided(pool: EdgePool, length: int) -> list[list[int]]:
    """Tokens of every slot."""
    stands_KN = pool._stands(torch.tensor([length]), length, slots_needed(length, pool.ratio), pool.ratio)[0]
    return [row_N.nonzero()[:, 0].tolist() for row_N in stands_KN]


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (0.25, 0.25, [[0], [1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11]]),
        (0.0, 1.0, [[0, 1, 2, 3, 4, 5, 6, 7, 8], [9], [10], [11]]),
        (1.0, 0.0, [[0], [1], [2], [3, 4, 5, 6, 7, 8, 9, 10, 11]]),
        (0.5, 0.5, [[0], [1], [2, 3, 4, 5, 6, 7, 8, 9, 10], [11]]),
    ],
)
def test_edges_are_sharp(first: float, last: float, expected: list[list[int]]) -> None:
    assert divided(EdgePool(WIDTH, ratio=3, first=first, last=last), 12) == expected


@given(length=st.integers(1, 300), ratio=st.integers(1, 20), first=st.floats(0, 1), last=st.floats(0, 1))
def test_every_token_has_one_slot_and_every_slot_a_token(length: int, ratio: int, first: float, last: float) -> None:
    slots = divided(EdgePool(WIDTH, ratio, first=first, last=last * (1 - first)), length)
    assert [token for slot in slots for token in slot] == list(range(length))
    assert all(slots)


def test_without_edges_it_is_mean_pooling() -> None:
    text = Segments(torch.zeros(2, 24, dtype=torch.long), torch.tensor([24, 24]))
    states_BND = torch.randn(2, 24, WIDTH, generator=torch.Generator().manual_seed(0))
    even, mean = EdgePool(WIDTH, 4, first=0.0, last=0.0), MeanPool(WIDTH, 4)
    torch.testing.assert_close(even.pool(states_BND, text), mean.pool(states_BND, text))
    memory = MemoryState(torch.zeros(2, 6, WIDTH), text.lengths_B, 4)
    assert torch.equal(even.positions(memory), mean.positions(memory))


def test_slots_stand_where_their_tokens_stood() -> None:
    memory = MemoryState(torch.zeros(1, 4, WIDTH), torch.tensor([12]), 3)
    assert EdgePool(WIDTH, 3, first=0.25, last=0.25).positions(memory).tolist() == [[0, 3, 8, 11]]


def test_slots_of_several_segments_stand_in_their_own_segments() -> None:
    pool = EdgePool(WIDTH, 3, first=0.25, last=0.25)
    one = MemoryState.one_after_the_other([torch.zeros(1, n, WIDTH) for n in (4, 2, 4)], 3)
    places = [pool.positions(MemoryState(torch.zeros(1, n, WIDTH), torch.tensor([3 * n]), 3))[0] for n in (4, 2, 4)]
    wanted = torch.cat([places[0], places[1] + 12, places[2] + 18]).tolist()
    assert pool.positions(one).tolist() == [wanted]
    # Beside a memory of one segment, which is shorter.
    both = joined([one, MemoryState(torch.zeros(1, 4, WIDTH), torch.tensor([12]), 3)])
    assert both is not None and pool.positions(both)[:, :4].tolist() == [wanted[:4], wanted[:4]]
    assert pool.positions(both)[0].tolist() == wanted and pool.positions(both.rows(torch.tensor([0]))).tolist() == [
        wanted
    ]


def test_many_segments_are_laid_out_by_the_widest(monkeypatch: pytest.MonkeyPatch) -> None:
    laid: list[int] = []
    places = EdgePool._places

    def recorded(pool: EdgePool, lengths_B: torch.Tensor, n_slots: int, ratio: int) -> torch.Tensor:
        laid.append(n_slots)
        return places(pool, lengths_B, n_slots, ratio)

    monkeypatch.setattr(EdgePool, "_places", recorded)
    memory = MemoryState.one_after_the_other([torch.zeros(2, n, WIDTH) for n in [4, 2] * 32], 3)
    assert EdgePool(WIDTH, 3).positions(memory).shape == (2, 192)
    assert laid == [4]


@pytest.mark.parametrize("shares", [{"first": -0.1}, {"last": 1.5}, {"first": 0.6, "last": 0.6}])
def test_shares_of_the_slots(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="are not shares"):
        EdgePool(WIDTH, 4, **shares)
