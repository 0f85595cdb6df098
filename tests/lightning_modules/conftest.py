"""The fixture that makes a small module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_modules.memory_module import MemoryModule
from r3mem import Backbone
from r3mem.compressors import (
    Compressor,
    VirtualTokens,
)
from r3mem.reversible import AttentionCoupling, PositionBinding, ReversibleStack
from tests.lightning_modules.batches import Make, objective
from tests.tiny_models import WIDTH, awaken_coupling


@pytest.fixture
def module(tiny_backbone: Callable[..., Backbone]) -> Make:
    """Makes a module with a stack that learns; ``terms`` are weights of the objective."""

    def make(
        ratio: int = 4,
        attention: bool = True,
        terms: dict[str, float] | None = None,
        compressor: Compressor | None = None,
        **options: Any,
    ) -> MemoryModule:
        torch.manual_seed(0)
        couplings: list[Any] = [PositionBinding(WIDTH, ratio, share=0.25)]
        if attention:
            couplings.append(awaken_coupling(AttentionCoupling(WIDTH, ratio, dim=8, heads=2)))
        compressor = compressor or VirtualTokens(WIDTH, ratio, write_layer=2, read_layer=1)
        options = {"calibrate": False, "objective": objective(**(terms or {"forward": 1.0}))} | options
        return MemoryModule(tiny_backbone(), compressor, ReversibleStack(couplings), **options)

    return make
