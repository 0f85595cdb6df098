"""The shared tests of compressors, for ``InContextAutoencoder``, and who reads what it writes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from r3mem import Backbone, MemoryState, R3Mem
from r3mem.compressors import InContextAutoencoder
from r3mem.hierarchy import Flat
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.battery.compressor import CompressorBattery, random_text
from tests.tiny_models import RATIO, SEGMENT, TEXT, WIDTH, awaken_adapters


class TestInContextAutoencoder(CompressorBattery):
    build = staticmethod(partial(InContextAutoencoder, WIDTH))


@pytest.fixture
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    backbone = tiny_backbone()
    awaken_adapters(backbone)
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
    return R3Mem(backbone, InContextAutoencoder(WIDTH, RATIO), stack, Flat(SEGMENT)).eval()


@torch.no_grad()
def test_adapters_write_and_do_not_read(model: R3Mem) -> None:
    text, before, memory = random_text([9, 6]), random_text([8, 5], seed=1), model.retain(TEXT)
    state = model.step(before, logits=False).state

    def all_of_it() -> list[torch.Tensor | str]:
        read = [model.likelihood(text), model.likelihood(text, state), model.reconstruct(before, state).logits_BNV]
        return [*read, model.step(text, state).logits_BNV, model.generate("Sir", memory, max_new_tokens=8)]

    first, written_BKD = all_of_it(), model.step(before, logits=False).slots_BKD
    awaken_adapters(model.backbone, seed=6)
    for one, again in zip(first, all_of_it(), strict=True):
        assert one == again if isinstance(one, str) else torch.equal(one, again)
    assert torch.equal(first[1], first[3])
    assert not torch.allclose(model.step(before, logits=False).slots_BKD, written_BKD, atol=1e-2)


@torch.no_grad()
def test_the_task_stands_right_behind_the_slots() -> None:
    compressor = InContextAutoencoder(WIDTH, 4)
    memory = MemoryState(torch.zeros(3, 3, WIDTH), torch.tensor([10, 4, 0]), 4)
    for prefix, task_D in (
        (compressor.read(memory), compressor.continue_D),
        (compressor.read_to_reconstruct(memory), compressor.spell_D),
    ):
        assert prefix.positions_BP.tolist() == [[0, 1, 2, 3], [0, 1, 2, 1], [0, 1, 2, 0]]
        assert prefix.mask_BP.tolist() == [[True] * 4, [True, False, False, True], [False] * 4]
        assert prefix.start_B.tolist() == [4, 2, 0] and torch.equal(prefix.states_BPD[0, -1], task_D)
