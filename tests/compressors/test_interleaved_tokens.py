"""The shared tests of compressors, for ``InterleavedTokens``, and what is its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from r3mem import Backbone, ConfigError, MemoryState, Segments
from r3mem.compressors import InterleavedTokens
from tests.battery.compressor import HiddenStateBattery
from tests.tiny_models import WIDTH


class TestInterleavedTokens(HiddenStateBattery):
    build = staticmethod(partial(InterleavedTokens, WIDTH, write_layer=2, read_layer=1))
    # A slot of an untrained model knows its last token, and hardly the mean.
    explains = 0.02


@torch.no_grad()
def test_a_slot_knows_the_text_before_it_alone_and_starts_as_its_last_token(
    tiny_backbone: Callable[..., Backbone],
) -> None:
    backbone = tiny_backbone().eval()
    compressor = InterleavedTokens(WIDTH, 3, write_layer=2)

    def slots(*ids: int) -> torch.Tensor:
        return compressor(backbone, Segments.pad([list(ids)]), None, logits=False).slots_BKD[0]

    whole = slots(9, 8, 7, 6, 5, 4, 3)
    other_end = slots(9, 8, 7, 6, 5, 2, 1)
    torch.testing.assert_close(whole[:1], other_end[:1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole[1], other_end[1], atol=1e-3)
    # Tokens behind a slot see it: what is written in them changes with the learned vector.
    compressor.write_D.fill_(1.0)
    assert not torch.allclose(whole[1], slots(9, 8, 7, 6, 5, 4, 3)[1], atol=1e-3)


@torch.no_grad()
def test_all_segments_are_read(tiny_backbone: Callable[..., Backbone]) -> None:
    compressor = InterleavedTokens(WIDTH, 4, write_layer=2, most=3)
    first, second = (MemoryState(torch.full((1, 2, WIDTH), v), torch.tensor([8]), 4) for v in (1.0, 2.0))
    state = compressor.next_state(compressor.next_state(None, first), second)
    assert state.slots_BKD[0, :, 0].tolist() == [1.0, 2.0, 2.0] and state.lengths_B.tolist() == [12]
    prefix = compressor.read(state)
    assert prefix.positions_BP.tolist() == [[0, 1, 2, 3]] and prefix.start_B.tolist() == [4]
    # Rows of other lengths, one of which holds nothing.
    held = MemoryState(torch.ones(3, 2, WIDTH), torch.tensor([8, 3, 0]), 4)
    assert compressor.read(held).start_B.tolist() == [3, 2, 0]


def test_a_state_holds_something() -> None:
    with pytest.raises(ConfigError, match="at least 1 slot"):
        InterleavedTokens(WIDTH, most=0)
