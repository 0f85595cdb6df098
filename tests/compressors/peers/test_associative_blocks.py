"""The shared tests of compressors, for ``AssociativeBlocks``, and what is its own.

Shape legend: B batch, N text tokens, K virtual tokens, A blocks, C width of a block, D width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from r3mem import ConfigError, MemoryState
from r3mem.compressors import AssociativeBlocks
from tests.battery.compressor import CompressorBattery
from tests.tiny_models import WIDTH


class TestAssociativeBlocks(CompressorBattery):
    build = staticmethod(partial(AssociativeBlocks, WIDTH))


class TestTwoBlocksAtAMiddleLayer(CompressorBattery):
    build = staticmethod(partial(AssociativeBlocks, WIDTH, blocks=2, read_layer=1))


def pieces(n_slots: int = 3, n_tokens: int = 8) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    slots_BKD, states_BND = (torch.randn(1, n, WIDTH, generator=generator) for n in (n_slots, n_tokens))
    return slots_BKD, torch.ones(1, n_slots, dtype=torch.bool), states_BND, torch.ones(1, n_tokens, dtype=torch.bool)


@torch.no_grad()
def test_a_block_is_updated_on_its_own() -> None:
    compressor = AssociativeBlocks(WIDTH, 4, blocks=4)
    slots_BKD, mask_BK, states_BND, mask_BN = pieces()
    before_BKAC = compressor.update(slots_BKD, mask_BK, states_BND, mask_BN).unflatten(-1, (4, 8))
    slots_BKD[..., 8:16] += 1  # The second block.
    after_BKAC = compressor.update(slots_BKD, mask_BK, states_BND, mask_BN).unflatten(-1, (4, 8))
    torch.testing.assert_close(after_BKAC[:, :, [0, 2, 3]], before_BKAC[:, :, [0, 2, 3]])
    assert not torch.allclose(after_BKAC[:, :, 1], before_BKAC[:, :, 1], atol=1e-3)


@torch.no_grad()
def test_all_blocks_are_read_together_and_weighed() -> None:
    compressor = AssociativeBlocks(WIDTH, 4, blocks=4)
    slots_BKD = pieces()[0]
    before_BKD = compressor.read_out(MemoryState(slots_BKD, torch.tensor([12]), 4)).slots_BKD
    for block in range(4):
        changed_BKD = slots_BKD.clone()
        changed_BKD[..., 8 * block : 8 * block + 8] += 1
        after_BKD = compressor.read_out(MemoryState(changed_BKD, torch.tensor([12]), 4)).slots_BKD
        assert not torch.allclose(after_BKD, before_BKD, atol=1e-3)
    # All weight on the third block: what the others hold is not found.
    compressor.gate.weight.zero_()
    compressor.gate.bias.copy_(torch.tensor([0.0, 0.0, 100.0, 0.0]))
    compressor.query.weight.zero_()
    before_BKD = compressor.read_out(MemoryState(slots_BKD, torch.tensor([12]), 4)).slots_BKD
    slots_BKD[..., :16] += 1
    torch.testing.assert_close(compressor.read_out(MemoryState(slots_BKD, torch.tensor([12]), 4)).slots_BKD, before_BKD)


@torch.no_grad()
@pytest.mark.parametrize("far", [-30.0, 30.0])
def test_what_is_not_written_is_kept_and_what_is_written_fully_replaces(far: float) -> None:
    compressor = AssociativeBlocks(WIDTH, 4, blocks=2)
    compressor.write.weight.zero_()
    compressor.write.bias.fill_(far)
    slots_BKD, mask_BK, states_BND, mask_BN = pieces(1)
    after_BKD = compressor.update(slots_BKD, mask_BK, states_BND, mask_BN)
    mean_BKD = compressor.value(states_BND).mean(1, keepdim=True)
    torch.testing.assert_close(after_BKD, slots_BKD if far < 0 else mean_BKD, atol=1e-4, rtol=1e-4)


def test_tokens_that_erase_all_leave_finite_gradients() -> None:
    compressor = AssociativeBlocks(WIDTH, 4, blocks=2)
    with torch.no_grad():
        compressor.write.bias.fill_(1e3)
    slots_BKD, mask_BK, states_BND, mask_BN = pieces(1)
    compressor.update(slots_BKD, mask_BK, states_BND, mask_BN).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in compressor.parameters() if p.grad is not None)


@pytest.mark.parametrize("wrong", [{"blocks": 5}, {"blocks": 1}, {"slots": 0}, {"read_layer": -1}])
def test_impossible_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        AssociativeBlocks(WIDTH, **wrong)
