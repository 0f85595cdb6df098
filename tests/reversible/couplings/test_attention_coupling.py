"""AttentionCoupling: the shared battery, and what is its own."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from r3mem.errors import ConfigError
from r3mem.reversible import AttentionCoupling
from tests.battery.coupling import CouplingBattery, awaken


class TestAttentionCoupling(CouplingBattery):
    build = staticmethod(partial(AttentionCoupling, width=32, ratio=4, dim=16, heads=4))
    identity_at_start = True


class TestAttentionCouplingOfOneHead(CouplingBattery):
    build = staticmethod(partial(AttentionCoupling, width=32, ratio=3, dim=8, heads=1))
    identity_at_start = True


def test_order_of_tokens_matters() -> None:
    coupling = awaken(AttentionCoupling(32, ratio=4, dim=16)).double()
    text_BND = torch.randn(1, 8, 32, dtype=torch.float64)
    swapped_BND = text_BND[:, [1, 0, 2, 3, 4, 5, 6, 7]]
    lengths_B = torch.tensor([8])
    assert not torch.allclose(coupling.to_memory(text_BND, lengths_B), coupling.to_memory(swapped_BND, lengths_B))


def test_local_heads_prefer_near_tokens() -> None:
    torch.manual_seed(0)
    coupling = awaken(AttentionCoupling(32, ratio=4, dim=16)).double()
    text_BND = torch.randn(1, 64, 32, dtype=torch.float64, requires_grad=True)
    coupling.to_memory(text_BND, torch.tensor([64]))[0, 0].abs().sum().backward()
    influence_N = text_BND.grad[0].norm(dim=-1)
    assert influence_N[:8].mean() > 3 * influence_N[32:].mean()


@pytest.mark.parametrize("options", [{"dim": 10, "heads": 4}, {"dim": 9, "heads": 3}, {"dropout": 1.0}, {"heads": 0}])
def test_refuses_what_cannot_work(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        AttentionCoupling(32, 4, **options)
