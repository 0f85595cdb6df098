"""TransformerCoupling: the shared battery, and what is its own."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from r3mem.errors import ConfigError
from r3mem.reversible import TransformerCoupling
from tests.battery.coupling import CouplingBattery, awaken


class TestTransformerCoupling(CouplingBattery):
    build = staticmethod(partial(TransformerCoupling, width=32, ratio=4, dim=16, heads=2, hidden=24))
    identity_at_start = True


def test_feed_forward_reads_only_the_tokens_own_slot() -> None:
    coupling = awaken(TransformerCoupling(32, ratio=4, dim=16)).double()
    memory_BKD = torch.randn(1, 3, 32, dtype=torch.float64)
    lengths_B = torch.tensor([12])
    before_BND = coupling.to_text(memory_BKD, lengths_B, 12)
    memory_BKD[:, 1] += 1.0
    changed_N = (coupling.to_text(memory_BKD, lengths_B, 12) != before_BND).any(-1)[0]
    assert changed_N.tolist() == [False] * 4 + [True] * 4 + [False] * 4


def test_tokens_of_one_slot_differ() -> None:
    coupling = awaken(TransformerCoupling(32, ratio=4, dim=16)).double()
    text_BND = coupling.to_text(torch.randn(1, 1, 32, dtype=torch.float64), torch.tensor([4]), 4)
    assert torch.pdist(text_BND[0]).min() > 1e-3


def test_order_of_tokens_matters() -> None:
    coupling = awaken(TransformerCoupling(32, ratio=4, dim=16)).double()
    text_BND = torch.randn(1, 8, 32, dtype=torch.float64)
    lengths_B = torch.tensor([8])
    written_BKD = coupling.to_memory(text_BND, lengths_B)
    assert not torch.allclose(written_BKD, coupling.to_memory(text_BND.flip(1), lengths_B))


def test_refuses_what_cannot_work() -> None:
    with pytest.raises(ConfigError):
        TransformerCoupling(32, 4, hidden=0)
    with pytest.raises(ConfigError):
        TransformerCoupling(32, 0)
