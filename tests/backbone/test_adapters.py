"""Adapters by one product against PEFT's own way: outputs, gradients, and when PEFT's own way is taken.

Shape legend: B rows, N text tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from r3mem import Backbone, Segments
from r3mem.backbone import adapters
from tests.tiny_models import FAMILIES, VOCABULARY, awaken_adapters

#: Bfloat16 rounds once where PEFT rounds three times.
TOLERANCE = {"float32": {"rtol": 1e-4, "atol": 1e-5}, "bfloat16": {"rtol": 0.1, "atol": 0.1}}


@contextmanager
def products(backbone: Backbone, wanted: bool) -> Iterator[list[None]]:
    """With our products, counted, or with PEFT's own."""
    layers = [m for m in backbone.modules() if isinstance(m, LoraLayer)]
    found, kept, run = [], [vars(layer).get("forward") for layer in layers], adapters._Adapted.apply
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapters._Adapted, "apply", lambda *a: found.append(None) or run(*a))
        if not wanted:
            for layer in layers:
                vars(layer).pop("forward", None)
        yield found
    for layer, forward in zip(layers, kept, strict=True):
        if forward is not None:
            layer.forward = forward


def found(backbone: Backbone) -> dict[str, Tensor]:
    torch.manual_seed(0)
    backbone.zero_grad()
    logits_BNV = backbone(Segments.whole(torch.randint(VOCABULARY, (2, 7)))).logits_BNV.float()
    logits_BNV.square().mean().backward()
    return {"logits": logits_BNV.detach()} | {n: p.grad.clone() for n, p in backbone.adapter_parameters()}


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_are_those_of_peft(
    tiny_backbone: Callable[..., Backbone], family: str, dtype: str
) -> None:
    backbone = tiny_backbone(family).eval()
    backbone.base.to(getattr(torch, dtype))
    backbone.precision = dtype
    for _, p in backbone.adapter_parameters():
        p.data = p.data.float()
    awaken_adapters(backbone)
    with products(backbone, False) as taken:
        expected = found(backbone)
    assert not taken
    with products(backbone, True) as taken:
        got = found(backbone)
    assert bool(taken) is (family != "gpt2")  # Its layers are no linear layers, but transposed ones.
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        scale = value.abs().max()
        torch.testing.assert_close(got[name] / scale, value / scale, **TOLERANCE[dtype], msg=name)


def test_new_adapters_change_nothing(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, text = tiny_backbone().eval(), Segments.whole(torch.arange(12).view(2, 6))
    with products(backbone, True) as taken:
        with_BNV = backbone(text).logits_BNV
        assert taken
        taken.clear()
        with backbone.adapters_off():
            assert torch.equal(backbone(text).logits_BNV, with_BNV)
        assert not taken


def test_frozen_adapters_and_inputs_without_gradient_get_none(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone().eval()
    awaken_adapters(backbone)
    first = next(m for m in backbone.modules() if isinstance(m, LoraLayer))
    first.lora_A["default"].weight.requires_grad_(False)
    x = torch.randn(1, 3, first.in_features)
    first(x).sum().backward()
    assert first.lora_A["default"].weight.grad is None and first.lora_B["default"].weight.grad is not None
    with torch.no_grad():
        assert not first(x).requires_grad


def test_what_is_more_than_one_adapter_is_left_to_peft(tiny_backbone: Callable[..., Backbone]) -> None:
    dropped = tiny_backbone(lora_dropout=0.1).train()
    thawed = tiny_backbone()
    thawed.base.requires_grad_()
    merged = tiny_backbone()
    for module in merged.modules():
        if isinstance(module, LoraLayer):
            module.merge()
    two = tiny_backbone()
    assert isinstance(two.model, peft.PeftModel) and isinstance(two.base, nn.Module)
    two.model.add_adapter("second", two.model.peft_config["default"])
    two.model.base_model.set_adapter(["default", "second"])
    for backbone in (dropped, thawed, merged, two):
        with products(backbone, True) as taken:
            backbone(Segments.whole(torch.arange(6)[None]))
        assert not taken
