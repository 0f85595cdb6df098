"""The shared tests of compressors, for ``RetentionValve``, and what is its own.

Shape legend: B batch, K virtual tokens, D width.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from r3mem import ConfigError
from r3mem.compressors import RetentionValve
from tests.battery.compressor import CompressorBattery
from tests.tiny_models import WIDTH


class TestRetentionValve(CompressorBattery):
    build = staticmethod(partial(RetentionValve, WIDTH))


class TestOneHead(CompressorBattery):
    build = staticmethod(partial(RetentionValve, WIDTH, heads=1))


@torch.no_grad()
def test_a_slot_takes_of_the_new_what_it_asks_for() -> None:
    """Queries and keys that match one to one, far apart: every old slot gets its own new one, and no other."""
    valve = RetentionValve(4, 1, heads=1)
    for layer in (valve.query, valve.key):
        layer.weight.copy_(100 * torch.eye(4))
    valve.query.bias.zero_()
    old_BKD = torch.eye(4)[None]
    new_BKD = torch.eye(4)[None].flip(1) + 0.1
    kept_BKD = valve.retain(old_BKD, new_BKD, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(kept_BKD, new_BKD.flip(1))


def test_heads_that_do_not_divide_the_width() -> None:
    for heads in (0, 5):
        with pytest.raises(ConfigError, match="choose a divisor"):
            RetentionValve(WIDTH, heads=heads)
