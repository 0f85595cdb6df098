"""IdentityCoupling: the shared battery, slots as they were, and recall by corrections alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from r3mem import Backbone, R3Mem
from r3mem.compressors import MeanPool
from r3mem.reversible import IdentityCoupling, ReversibleStack
from tests.battery.coupling import CouplingBattery


class TestIdentityCoupling(CouplingBattery):
    build = staticmethod(partial(IdentityCoupling, ratio=4))
    identity_at_start = True


def test_slots_stay_and_every_token_is_a_correction(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone()
    model = R3Mem(backbone, MeanPool(backbone.width, 4), ReversibleStack([IdentityCoupling(4)])).eval()
    ids = torch.randint(backbone.vocabulary, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    memory = model.retain(ids)
    assert model.recall_ids(memory) == ids
    assert sum(memory.wrong) >= 28 and model.decoder.share_dims == 0
