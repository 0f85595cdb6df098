"""Keys and values as vectors: found, turned back, read again; and which models are refused.

Shape legend: B batch, P prefix positions, N text tokens, K write slots, S positions of one pass, W numbers of one
position's keys and values in all layers, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTJConfig, LlamaConfig, PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, Segments
from r3mem.backbone.key_values import KeyValueLayout, PassCache
from r3mem.backbone.pass_layout import PassLayout
from r3mem.backbone.prefix import Prefix
from tests.battery.compressor import random_text
from tests.tiny_models import FAMILIES, LAYERS, WIDTH, tiny_model

SMALL = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_layout_is_what_a_cache_holds(family: str, tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, ids_BN = tiny_backbone(family).eval(), torch.arange(12).view(2, 6)
    layout = backbone.key_values
    cached = backbone.base(ids_BN, use_cache=True).past_key_values
    held = [(layer.keys, layer.values) for layer in cached.layers]
    assert layout.layers == LAYERS and held[0][0].shape == (2, layout.heads, 6, layout.head_width)
    positions_BS = torch.arange(6).expand(2, -1)
    flat_BSW = layout.flat(held, positions_BS)
    assert flat_BSW.shape == (2, 6, layout.width) and backbone.key_values is layout
    again = layout.pairs(flat_BSW, positions_BS)
    torch.testing.assert_close(again, held, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["default", "linear", "yarn"])
def test_keys_turned_back_are_those_of_position_0(kind: str) -> None:
    """Also where a scaling of positions lengthens keys."""
    options = {} if kind == "default" else {"rope_scaling": {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4}}
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL, **options)).eval()
    layout, found = KeyValueLayout.of(model, 2), []
    for place in (0, 37):
        cache, position_11 = PassCache(keep=1), torch.tensor([[place]])
        model(torch.tensor([[5]]), position_ids=position_11, past_key_values=cache, use_cache=True)
        found.append((cache.kept, layout.flat(cache.kept, position_11)))
    assert not torch.allclose(found[0][0][0][0], found[1][0][0][0], atol=1e-3)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layout.pairs(found[0][1], torch.tensor([[37]])), found[1][0], atol=1e-5, rtol=1e-4)


def test_models_that_turn_keys_in_a_way_of_their_own_are_refused(
    byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GPTJConfig(vocab_size=258, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64)
    other = Backbone.wrap(AutoModelForCausalLM.from_config(config), byte_tokenizer, lora_rank=0)
    with pytest.raises(ConfigError, match="GPTJForCausalLM turns its keys by position in a way of its own"):
        other.key_values.width  # noqa: B018
    # A rotation is found, but it is not that of all layers.
    model = tiny_model()
    turn = torch.nn.Module.__call__

    def slower(module: torch.nn.Module, *args: object, **kwargs: object) -> object:
        if module is model.model.layers[1] and "position_embeddings" in kwargs:
            cos, sin = kwargs["position_embeddings"]
            kwargs["position_embeddings"] = (sin, cos)
        return turn(module, *args, **kwargs)

    monkeypatch.setattr(torch.nn.Module, "__call__", slower)
    with pytest.raises(ConfigError, match="in a way of its own"):
        KeyValueLayout.of(model, LAYERS)


def test_a_model_without_cache_is_refused(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone()
    backbone._signature = backbone._signature - {"past_key_values"}
    with pytest.raises(ConfigError, match="takes no cache"):
        backbone.key_values.width  # noqa: B018
    with pytest.raises(ConfigError, match="do not each keep keys and values"):
        KeyValueLayout.of(tiny_model(), LAYERS + 1)


def test_gradient_checkpointing_of_the_model_would_lose_the_memory(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, slots_BKD, mask_BK = tiny_backbone(lora_rank=0), torch.zeros(1, 2, WIDTH), torch.ones(1, 2).bool()
    backbone.base.gradient_checkpointing_enable()
    backbone.train()
    with pytest.raises(ConfigError, match="0 of 3 layers of LlamaForCausalLM used the cache"):
        backbone(random_text([3]), None, slots_BKD, torch.tensor([[3, 4]]), mask_BK, key_values=True)


def test_states_behind_keys_and_values_enter_at_the_input(tiny_backbone: Callable[..., Backbone]) -> None:
    good = prefix_of_key_values(tiny_backbone(), [2])
    with pytest.raises(ConfigError, match="only enter at layer 0"):
        Prefix(good.states_BPD, good.mask_BP, good.positions_BP, good.start_B, 1, good.key_values_BMW)


def prefix_of_key_values(backbone: Backbone, lengths: list[int], seed: int = 0) -> Prefix:
    n_batch, n_prefix = len(lengths), max(lengths)
    drawn = torch.randn(n_batch, n_prefix, backbone.key_values.width, generator=torch.Generator().manual_seed(seed))
    start_B = torch.tensor(lengths)
    return Prefix(
        torch.zeros(n_batch, 0, WIDTH), torch.arange(n_prefix) < start_B[:, None],
        torch.arange(n_prefix).expand(n_batch, -1), start_B, key_values_BMW=drawn,
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, 0, 1])
def test_slots_among_the_text_are_tokens_of_a_plain_pass(
    layer: int | None, tiny_backbone: Callable[..., Backbone]
) -> None:
    """Slots hold the embeddings of tokens, so that the text with them is a longer text; behind any prefix."""
    backbone, whole = tiny_backbone().eval(), random_text([10, 6])
    # Of the ten tokens the fourth, the eighth and the last are slots; of the six the fourth and the last.
    is_slot_BN = torch.zeros(2, 10, dtype=torch.bool)
    is_slot_BN[0, [3, 7, 9]] = is_slot_BN[1, [3, 5]] = True
    rows = [whole.ids_BN[b, : whole.lengths_B[b]] for b in range(2)]
    text = Segments.pad([row[~is_slot_BN[b, : len(row)]].tolist() for b, row in enumerate(rows)])
    slots = Segments.pad([row[is_slot_BN[b, : len(row)]].tolist() for b, row in enumerate(rows)])
    prefix = None
    if layer is not None:
        states_BPD = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1))
        mask_BP = torch.tensor([[True] * 3, [True, False, False]])
        prefix = Prefix(states_BPD, mask_BP, torch.arange(3).expand(2, -1), mask_BP.sum(1), layer)
    plain = backbone(whole, prefix, capture=2)
    after_BK = torch.tensor([[3, 6, 7], [3, 4, 4]])
    slots_BKD = backbone.embed(slots.ids_BN)
    among = backbone(
        text, prefix, slots_BKD, slot_mask_BK=slots.mask_BN, capture=2, slots_after_BK=after_BK, key_values=True
    )
    for b, n in enumerate(whole.lengths_B.tolist()):
        inside_N = is_slot_BN[b, :n]
        n_slots = int(inside_N.sum())
        for ours, theirs in ((among.logits_BNV, plain.logits_BNV), (among.text_BND, plain.text_BND)):
            torch.testing.assert_close(ours[b, : n - n_slots], theirs[b, :n][~inside_N], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(among.slots_BKD[b, :n_slots], plain.text_BND[b, :n][inside_N], atol=2e-5, rtol=1e-4)
    assert among.key_values_BKW is not None and among.key_values_BKW.shape == (2, 3, backbone.key_values.width)
    assert backbone(text, prefix, key_values=True).key_values_BKW is None


def test_the_order_of_a_pass() -> None:
    """The picture in ``r3mem/backbone/pass_layout.py``, and a shorter row whose last slot is out of use."""
    text = random_text([7, 4])
    mask_BK = torch.tensor([[True, True, True], [True, True, False]])
    after_BK = torch.tensor([[3, 6, 7], [3, 4, 4]])
    layout = PassLayout.of(text, None, mask_BK, None, after_BK)
    assert layout.positions_BS[0].tolist() == [0, 1, 2, 4, 5, 6, 8, 3, 7, 9]
    assert layout.positions_BS[1, :4].tolist() == [0, 1, 2, 4] and layout.positions_BS[1, 7:9].tolist() == [3, 5]
    assert torch.equal(layout.order_BS, layout.positions_BS)
    assert layout.valid_BS.tolist() == [[True] * 10, [*[True] * 4, *[False] * 3, True, True, False]]


@torch.no_grad()
def test_rows_of_keys_and_values_are_read_alone_and_together(tiny_backbone: Callable[..., Backbone]) -> None:
    """Padding of memory and text changes nothing, a row that holds nothing is the plain model, no hook stays behind."""
    backbone, text = tiny_backbone().eval(), random_text([5, 7, 3])
    prefix = prefix_of_key_values(backbone, [4, 0, 2])
    together_BNV = backbone(text, prefix).logits_BNV
    for b, n in enumerate(text.lengths_B.tolist()):
        alone, held = Segments.whole(text.ids_BN[b : b + 1, :n]), int(prefix.start_B[b])
        one = Prefix(
            prefix.states_BPD[:1], prefix.mask_BP[b : b + 1, :held], prefix.positions_BP[:1, :held],
            prefix.start_B[b : b + 1], key_values_BMW=prefix.key_values_BMW[b : b + 1, :held],
        )  # fmt: skip
        read_NV = backbone(alone, one if held else None).logits_BNV[0]
        torch.testing.assert_close(together_BNV[b, :n], read_NV, atol=2e-5, rtol=1e-4)
    prompts = [[1, 2], [3, 4, 5], [6]]
    backbone.generate(prompts, prefix, max_new_tokens=2)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in backbone.modules())


def test_gradients_reach_keys_and_values(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone()
    prefix = prefix_of_key_values(backbone, [3, 2])
    prefix.key_values_BMW.requires_grad_()
    backbone(random_text([4, 4]), prefix).logits_BNV.square().sum().backward()
    reached_BMW = prefix.key_values_BMW.grad != 0
    assert reached_BMW[prefix.mask_BP].float().mean() > 0.99 and not reached_BMW[~prefix.mask_BP].any()
