"""Memories of keys and values in the lower layers alone: the shared tests, and that other layers really read nothing.

Shape legend: B batch, K slots, N text tokens, S positions of one pass, H heads of keys and values, G heads of queries
of a group, E width of a head, W numbers of a slot, L layers, V vocabulary, P prefix positions, D width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from r3mem import Backbone, ConfigError, MemoryState, Segments
from r3mem.backbone.prefix import Prefix
from r3mem.compressors import SelectedKeyValues
from r3mem.compressors.scorers import AttentionReceived, ExpectedAttention, RepeatedText
from tests.battery.compressor import KeyValueBattery, random_text
from tests.battery.scorer import eager_weights
from tests.tiny_models import HEAD_WIDTH, KEY_VALUE_HEADS, LAYERS, WIDTH

RATIO, READING = 4, 2
SHARE = READING / LAYERS


class TestLowerLayers(KeyValueBattery):
    build = staticmethod(partial(SelectedKeyValues, WIDTH, layer_share=SHARE))
    memory_width = 2 * READING * KEY_VALUE_HEADS * HEAD_WIDTH + READING * KEY_VALUE_HEADS


class LowerCache(DynamicCache):
    """Gives the lower layers what stands in front of the pass; the others hold their own keys and values alone."""

    def __init__(self, front: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.front = front

    def update(self, keys_BHNE: Tensor, values_BHNE: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if layer >= len(self.front):
            return keys_BHNE, values_BHNE
        keys_BHKE, values_BHKE = self.front[layer]
        return torch.cat([keys_BHKE, keys_BHNE], 2), torch.cat([values_BHKE, values_BHNE], 2)


def without(model: nn.Module, front: list[tuple[Tensor, Tensor]], text: Segments) -> Tensor:
    """Logits ``NV`` of a text behind keys and values that the upper layers do not have, not even masked."""
    n_before, n_text = front[0][0].shape[2], text.ids_BN.shape[1]
    blocked = torch.finfo(torch.float32).min
    own_NN = torch.full((n_text, n_text), blocked).triu(1)
    whole_NS = torch.cat([torch.zeros(n_text, n_before), own_NN], 1)

    def own_mask(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": own_NN[None, None]}

    handles = [
        layer.register_forward_pre_hook(own_mask, with_kwargs=True) for layer in model.model.layers[len(front) :]
    ]
    try:
        return model(
            input_ids=text.ids_BN, attention_mask=whole_NS[None, None], past_key_values=LowerCache(front),
            position_ids=n_before + torch.arange(n_text)[None], use_cache=True,
        ).logits[0]  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def test_a_pass_that_really_leaves_the_memory_out(backbone: Backbone) -> None:
    compressor = SelectedKeyValues(WIDTH, RATIO, layer_share=SHARE)
    first, second = random_text([13]), random_text([9], seed=1)
    state = MemoryState(compressor(backbone, first, None).slots_BKD, first.lengths_B, RATIO)
    prefix = compressor.read(state)
    front = backbone.front(prefix)[:READING]
    read_NV = backbone(second, prefix).logits_BNV[0]
    torch.testing.assert_close(read_NV, without(backbone.base, front, second), atol=1e-5, rtol=1e-4)
    # It is neither what all layers read nor what none read.
    everywhere = SelectedKeyValues(WIDTH, RATIO)
    all_state = MemoryState(everywhere(backbone, first, None).slots_BKD, first.lengths_B, RATIO)
    all_NV = backbone(second, everywhere.read(all_state)).logits_BNV[0]
    for other_NV in (all_NV, backbone(second).logits_BNV[0]):
        assert not torch.allclose(read_NV, other_NV, atol=1e-2)
    # What the lower layers hold is what all of them would: a slot's numbers begin with its last layer.
    widths = (compressor.memory_width(backbone), everywhere.memory_width(backbone))
    assert widths[0] * LAYERS == widths[1] * READING
    for (keys, values), (all_keys, all_values) in zip(front, backbone.front(everywhere.read(all_state)), strict=False):
        assert torch.equal(keys, all_keys) and torch.equal(values, all_values)


@torch.no_grad()
def test_layers_that_read_nothing_look_at_nothing(backbone: Backbone) -> None:
    """What is observed of them is what eager attention weighs."""
    compressor, text = SelectedKeyValues(WIDTH, RATIO, layer_share=SHARE), random_text([11])
    generator = torch.Generator().manual_seed(8)
    slots_BKW = torch.randn(1, 3, compressor.memory_width(backbone), generator=generator)
    prefix = compressor.read(MemoryState(slots_BKW, torch.tensor([12]), RATIO))
    observed = backbone(text, prefix, observe=True).attention
    seeing_S = torch.cat([torch.full((3,), 11.0), torch.arange(11, 0, -1)])
    scores_LHS = AttentionReceived(few=0.0)(observed)[0]
    weights, _ = eager_weights(backbone, (text, prefix), KEY_VALUE_HEADS)
    expected_LHS = torch.stack([layer_HGNS.mean(1).sum(1) for layer_HGNS in weights]) / seeing_S
    torch.testing.assert_close(scores_LHS, expected_LHS, atol=1e-6, rtol=1e-4)
    assert (scores_LHS[READING:, :, :3] == 0).all() and (scores_LHS[:READING, :, :3] > 0).all()
    assert (ExpectedAttention(ahead=4, sinks=1)(observed)[0, READING:, :, 1:3] == 0).all()


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_impossible_share(share: float) -> None:
    with pytest.raises(ConfigError, match="above 0, at most 1"):
        SelectedKeyValues(WIDTH, layer_share=share)


def test_what_some_layers_cannot_read(backbone: Backbone) -> None:
    slots_BPD = torch.zeros(1, 2, WIDTH)
    with pytest.raises(ConfigError, match="only a prefix of keys and values"):
        Prefix(slots_BPD, torch.ones(1, 2, dtype=torch.bool), torch.arange(2)[None], torch.tensor([2]), layer_share=0.5)
    compressor = SelectedKeyValues(WIDTH, RATIO, RepeatedText(), layer_share=SHARE)
    memory = MemoryState(torch.zeros(1, 1, compressor.memory_width(backbone)), torch.tensor([4]), RATIO)
    with pytest.raises(ConfigError, match="read by all layers or by none"):
        compressor(backbone, random_text([5]), memory)


def test_a_model_that_hides_its_mask_from_its_layers_is_refused(backbone: Backbone) -> None:
    compressor = SelectedKeyValues(WIDTH, RATIO, layer_share=SHARE)
    memory = MemoryState(torch.zeros(1, 1, compressor.memory_width(backbone)), torch.tensor([4]), RATIO)
    handle = backbone.layers[-1].register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "attention_mask": kwargs["attention_mask"].clone()}), with_kwargs=True
    )
    with pytest.raises(ConfigError, match="layer_share to 1"):
        backbone(random_text([5]), compressor.read(memory))
    handle.remove()
