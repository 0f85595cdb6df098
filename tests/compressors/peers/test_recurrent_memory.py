"""The shared tests of compressors, for ``RecurrentMemory``, and what is its own.

Shape legend: B batch, K virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from r3mem import Backbone, ConfigError, InputError, MemoryState
from r3mem.compressors import RecurrentMemory
from tests.battery.compressor import CompressorBattery, random_text
from tests.tiny_models import WIDTH


class TestRecurrentMemory(CompressorBattery):
    build = staticmethod(partial(RecurrentMemory, WIDTH))


@torch.no_grad()
def test_the_first_memory_has_the_spread_of_the_embeddings(tiny_backbone: Callable[..., Backbone]) -> None:
    compressor, backbone = RecurrentMemory(WIDTH, 4), tiny_backbone()
    drawn_SD = compressor.initial_SD.clone()
    for _ in range(2):
        assert compressor.calibrate(backbone, random_text([8]), lambda slots_BKD: slots_BKD) == 1.0
        assert compressor.initial_SD.std() == pytest.approx(float(backbone.embedding_VD.std()), rel=1e-4)
    torch.testing.assert_close(compressor.initial_SD / compressor.initial_SD.std(), drawn_SD / drawn_SD.std())


@torch.no_grad()
def test_a_longer_segment_starts_its_further_slots_from_the_first_memory(
    tiny_backbone: Callable[..., Backbone],
) -> None:
    backbone, compressor = tiny_backbone().eval(), RecurrentMemory(WIDTH, 4, slots=3)
    slots_BKD = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    short, text = MemoryState(slots_BKD[:, :1], torch.tensor([4]), 4), random_text([12])
    written_BKD = compressor(backbone, text, short, logits=False).slots_BKD
    compressor.initial_SD[0] += 1  # Slot 0 is the memory's own.
    assert torch.equal(compressor(backbone, text, short, logits=False).slots_BKD, written_BKD)
    compressor.initial_SD[2] += 1
    assert not torch.allclose(compressor(backbone, text, short, logits=False).slots_BKD, written_BKD, atol=1e-3)


def test_more_slots_than_were_learned(tiny_backbone: Callable[..., Backbone]) -> None:
    with pytest.raises(InputError, match="needs 3 memory tokens at ratio 4, but 2 were learned"):
        RecurrentMemory(WIDTH, 4, slots=2)(tiny_backbone(), random_text([9]), None)
    with pytest.raises(ConfigError, match="at least 1"):
        RecurrentMemory(WIDTH, slots=0)
