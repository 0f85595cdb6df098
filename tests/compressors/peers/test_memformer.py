"""The shared tests of compressors, for ``Memformer``, and what is its own.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from r3mem import Backbone, ConfigError, InputError
from r3mem.compressors import Memformer
from tests.battery.compressor import CompressorBattery, random_text
from tests.tiny_models import WIDTH


class TestMemformer(CompressorBattery):
    build = staticmethod(partial(Memformer, WIDTH))


class TestReadAtAMiddleLayer(CompressorBattery):
    build = staticmethod(partial(Memformer, WIDTH, read_layer=1))


@torch.no_grad()
def test_slots_do_not_see_each_other() -> None:
    compressor, mask_BK = Memformer(WIDTH, 4), torch.ones(1, 3, dtype=torch.bool)
    slots_BKD, states_BND = torch.randn(1, 3, WIDTH), torch.randn(1, 8, WIDTH)
    mask_BN = torch.ones(1, 8, dtype=torch.bool)
    before_BKD = compressor.update(slots_BKD, mask_BK, states_BND, mask_BN)
    slots_BKD[:, 1] += 1
    after_BKD = compressor.update(slots_BKD, mask_BK, states_BND, mask_BN)
    torch.testing.assert_close(after_BKD[:, [0, 2]], before_BKD[:, [0, 2]])
    assert not torch.allclose(after_BKD[:, 1], before_BKD[:, 1], atol=1e-3)


@torch.no_grad()
def test_slots_have_length_one_and_drift_to_their_bias_where_nothing_is_written() -> None:
    """Without a token a slot sees itself alone; what is left of it is what forgetting leaves."""
    compressor = Memformer(WIDTH, 4)
    mask_BK, states_BND = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 1, WIDTH)
    nothing_BN = torch.zeros(1, 1, dtype=torch.bool)
    slots_BKD, likeness = torch.nn.functional.normalize(torch.randn(1, 3, WIDTH), dim=-1), [-1.0]
    for _ in range(6):
        slots_BKD = compressor.update(slots_BKD, mask_BK, states_BND, nothing_BN)
        torch.testing.assert_close(slots_BKD.norm(dim=-1), torch.ones(1, 3))
        likeness.append(float((slots_BKD[0] * compressor.start_SD[:3]).sum(-1).min()))
    assert likeness == sorted(likeness) and likeness[-1] > 0.95


@torch.no_grad()
def test_a_lower_temperature_keeps_or_overwrites() -> None:
    """Slots in the first half of the width, values in the second: their lengths tell what a slot attended to."""
    mask_BK, mask_BN = torch.ones(1, 16, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    slots_BKD, states_BND = (torch.randn(1, n, WIDTH, generator=generator) for n in (16, 4))
    slots_BKD[..., WIDTH // 2 :] = 0
    torch.manual_seed(0)
    compressor = Memformer(WIDTH, 4, heads=1)
    compressor.value.weight[: WIDTH // 2].zero_()
    compressor.bias_SD.zero_()
    decided = []
    for temperature in (1e-3, 1.0):
        compressor.temperature = temperature
        own_BK = compressor.update(slots_BKD, mask_BK, states_BND, mask_BN)[..., : WIDTH // 2].norm(dim=-1)
        decided.append(int(((own_BK < 0.01) | (own_BK > 0.99)).sum()))
    assert decided[0] > 12 and decided[1] == 0


@torch.no_grad()
def test_calibrated_values_are_as_long_as_slots_and_slots_choose(tiny_backbone: Callable[..., Backbone]) -> None:
    compressor, backbone, text = Memformer(WIDTH, 4), tiny_backbone().eval(), random_text([32] * 4)
    for _ in range(2):
        compressor.calibrate(backbone, text, lambda slots_BKD: slots_BKD)
        states_BND = backbone(text, capture=backbone.output, logits=False).text_BND
        assert float(compressor.value(states_BND).norm(dim=-1).mean()) == pytest.approx(1, rel=1e-4)
        query_SHC = compressor.query(compressor.start_SD).view(-1, 4, WIDTH // 4)
        key_MHC = compressor.key(states_BND).view(-1, 4, WIDTH // 4)
        scores_HSM = torch.einsum("shc,mhc->hsm", query_SHC, key_MHC) / (WIDTH // 4) ** 0.5
        assert float(scores_HSM.std()) == pytest.approx(compressor.temperature, rel=1e-4)


@pytest.mark.parametrize("wrong", [{"heads": 5}, {"temperature": 0.0}, {"slots": 0}, {"read_layer": -1}])
def test_impossible_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Memformer(WIDTH, **wrong)


def test_more_slots_than_were_learned(tiny_backbone: Callable[..., Backbone]) -> None:
    with pytest.raises(InputError, match="needs 3 memory tokens at ratio 4, but 2 were learned"):
        Memformer(WIDTH, 4, slots=2)(tiny_backbone(), random_text([9]), None)
