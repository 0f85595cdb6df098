"""IdentityCoupling: slots and text stay as they were, and recall is by corrections alone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from r3mem import Backbone, R3Mem
from r3mem.compressors import EdgePool
from r3mem.plain_data.components import build, describe
from r3mem.reversible import IdentityCoupling, ReversibleStack

RATIO = 4


def test_both_streams_stay_as_they_were_at_any_ratio() -> None:
    generator = torch.Generator().manual_seed(0)
    text_BND, lengths_B = torch.randn(2, 7, 8, generator=generator), torch.tensor([7, 3])
    stack = ReversibleStack([build(describe(IdentityCoupling(RATIO)), IdentityCoupling)])
    for ratio, n_slots in ((RATIO, 2), (3, 3)):
        slots_BKD = torch.randn(2, n_slots, 8, generator=generator)
        residual_BND, memory_BKD = stack.at_ratio(ratio).retain(text_BND, slots_BKD, lengths_B)
        assert torch.equal(memory_BKD, slots_BKD) and torch.equal(residual_BND[0], text_BND[0])
        assert torch.equal(stack.project_off_share(slots_BKD), slots_BKD)


def test_every_token_is_a_correction(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone()
    model = R3Mem(backbone, EdgePool(backbone.width, RATIO), ReversibleStack([IdentityCoupling(RATIO)])).eval()
    ids = torch.randint(backbone.vocabulary, (30,), generator=torch.Generator().manual_seed(0)).tolist()
    memory = model.retain(ids)
    assert model.recall_ids(memory) == ids
    assert sum(memory.wrong) >= 28 and model.decoder.share_dims == 0
