"""Token by token behind a prefix: the same logits as one pass over the whole text.

Shape legend: B batch, N text tokens, P prefix, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from r3mem import Backbone, Segments
from r3mem.backbone.prefix import Prefix
from r3mem.backbone.stepwise import Stepwise
from tests.tiny_models import FAMILIES, WIDTH, awaken_adapters

LENGTHS = [7, 7, 3]


def prefix(layer: int, used: list[list[int]]) -> Prefix:
    """Random states; ``used`` says which are in use."""
    mask_BP = torch.tensor(used).bool()
    states_BPD = torch.randn(*mask_BP.shape, WIDTH, generator=torch.Generator().manual_seed(1))
    positions_BP = torch.arange(mask_BP.shape[1]).expand_as(mask_BP) * 2
    return Prefix(states_BPD, mask_BP, positions_BP, torch.full((len(used),), 2 * mask_BP.shape[1]), layer)


def step_by_step(backbone: Backbone, front: Prefix, ids_BN: Tensor) -> Tensor:
    steps = Stepwise(backbone, front)
    return torch.stack([steps.opening(), *(steps.after(ids_B) for ids_B in ids_BN.T)], 1)


# The last row's last state in use is not the prefix's last, as of a row with a shorter memory.
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_steps_are_one_pass(tiny_backbone: Callable[..., Backbone], family: str, layer: int) -> None:
    backbone = tiny_backbone(family).eval()
    awaken_adapters(backbone)
    text = Segments.pad([list(range(10 + b, 10 + b + n)) for b, n in enumerate(LENGTHS)])
    front = prefix(layer, [[1, 1, 1], [0, 1, 1], [1, 1, 0]])
    whole = backbone(text, front)
    expected_BNV = torch.cat([whole.opening_BV[:, None], whole.logits_BNV], 1)
    found_BNV = step_by_step(backbone, front, text.ids_BN)
    for b, n in enumerate(LENGTHS):
        torch.testing.assert_close(found_BNV[b, : n + 1], expected_BNV[b, : n + 1], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_adapters_may_be_off(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, front = tiny_backbone().eval(), prefix(0, [[1, 1]])
    awaken_adapters(backbone)
    ids_BN = torch.tensor([[1, 2, 3]])
    with backbone.adapters_off():
        without_BNV = step_by_step(backbone, front, ids_BN)
        torch.testing.assert_close(without_BNV[:, 1:], backbone(Segments.whole(ids_BN), front).logits_BNV)
    assert not torch.allclose(step_by_step(backbone, front, ids_BN), without_BNV, atol=1e-3)


@torch.no_grad()
def test_the_opening_sees_the_prefix_alone(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, front = tiny_backbone().eval(), prefix(0, [[1, 1, 0], [1, 1, 1]])
    first, second = (backbone(Segments.whole(torch.full((2, 4), token)), front).opening_BV for token in (1, 2))
    torch.testing.assert_close(first, second)
    shorter = Prefix(front.states_BPD[:1, :2], front.mask_BP[:1, :2], front.positions_BP[:1, :2], front.start_B[:1])
    torch.testing.assert_close(first[0], backbone(Segments.whole(torch.full((1, 4), 1)), shorter).opening_BV[0])


@torch.no_grad()
def test_without_states_nothing_predicts_the_first_token(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone().eval()
    nothing = Prefix(
        torch.zeros(1, 0, WIDTH), torch.zeros(1, 0).bool(), torch.zeros(1, 0).long(), torch.zeros(1).long()
    )
    text = Segments.whole(torch.tensor([[5, 6, 7]]))
    assert backbone(text, nothing).opening_BV is None and backbone(text).opening_BV is None
    steps = Stepwise(backbone, nothing)
    assert steps.opening() is None
    found_BNV = torch.stack([steps.after(ids_B) for ids_B in text.ids_BN.T], 1)
    torch.testing.assert_close(found_BNV, backbone(text).logits_BNV, atol=2e-5, rtol=1e-4)
