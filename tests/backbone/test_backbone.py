"""The backbone against transformers itself, by hand-made passes.

Shape legend: B batch, P prefix, N text tokens, K write slots, S positions of one pass, D width, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, InputError, Segments
from r3mem.backbone.prefix import Prefix
from tests.tiny_models import FAMILIES, LAYERS, VOCABULARY, WIDTH, awaken_adapters, tiny_model

FINAL_NORM = {
    "llama": "model.norm",
    "qwen2": "model.norm",
    "gpt2": "transformer.ln_f",
    "gpt_neox": "gpt_neox.final_layer_norm",
}
ROWS = [[5, 200, 7, 31, 90, 14, 15], [65, 66, 67], [3]]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def backbone(family: str, tiny_backbone: Callable[..., Backbone]) -> Backbone:
    made = tiny_backbone(family).eval()
    awaken_adapters(made)
    return made


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


def full(ids_BN: Tensor) -> Segments:
    return Segments(ids_BN, torch.full((len(ids_BN),), ids_BN.shape[1]))


def some_prefix(n_batch: int, layer: int, empty_rows: tuple[int, ...] = ()) -> Prefix:
    states_BPD = torch.randn(n_batch, 4, WIDTH, generator=torch.Generator().manual_seed(2))
    mask_BP = torch.ones(n_batch, 4, dtype=torch.bool)
    start_B = torch.full((n_batch,), 13)
    mask_BP[0, 3], start_B[0] = False, 10
    for b in empty_rows:
        mask_BP[b], start_B[b] = False, 0
    return Prefix(states_BPD, mask_BP, torch.tensor([0, 2, 6, 10]).expand(n_batch, -1), start_B, layer)


def row_of(prefix: Prefix, b: int) -> Prefix:
    one = slice(b, b + 1)
    return Prefix(
        prefix.states_BPD[one], prefix.mask_BP[one], prefix.positions_BP[one], prefix.start_B[one], prefix.layer
    )


@torch.no_grad()
def test_nothing_switched_on_is_the_base_bit_for_bit(backbone: Backbone, family: str) -> None:
    ids_BN = random_ids(2, 9)
    base_BNV = tiny_model(family)(ids_BN).logits
    with backbone.adapters_off():
        assert torch.equal(backbone(full(ids_BN)).logits_BNV, base_BNV)
    assert not torch.allclose(backbone(full(ids_BN)).logits_BNV, base_BNV, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, 0, 2])
def test_right_padding_changes_nothing(backbone: Backbone, layer: int | None) -> None:
    prefix = None if layer is None else some_prefix(3, layer, empty_rows=(1,))
    slots_BKD = torch.randn(3, 2, WIDTH, generator=torch.Generator().manual_seed(1))
    positions_BK, used_BK = torch.tensor([[1, 5]]).expand(3, -1), torch.tensor([[1, 1], [1, 0], [1, 0]]).bool()
    text = Segments.pad(ROWS)
    text.ids_BN[~text.mask_BN] = VOCABULARY + 7
    text.ids_BN = torch.nn.functional.pad(text.ids_BN, (0, 3), value=-1)
    out = backbone(text, prefix, slots_BKD, positions_BK, used_BK, capture=2)
    for b, row in enumerate(ROWS):
        n, k, one = len(row), int(used_BK[b].sum()), slice(b, b + 1)
        alone = backbone(
            Segments.pad([row]), None if prefix is None else row_of(prefix, b), slots_BKD[one, :k],
            positions_BK[one, :k], used_BK[one, :k], capture=2,
        )  # fmt: skip
        torch.testing.assert_close(out.logits_BNV[one, :n], alone.logits_BNV, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(out.text_BND[one, :n], alone.text_BND, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(out.slots_BKD[one, :k], alone.slots_BKD, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_masked_prefix_states_are_not_read(backbone: Backbone) -> None:
    text = Segments.pad(ROWS)
    for layer in (0, 2):
        prefix = some_prefix(3, layer)
        before_BNV = backbone(text, prefix).logits_BNV
        prefix.states_BPD[0, 3] = 1e3
        assert torch.equal(backbone(text, prefix).logits_BNV[0], before_BNV[0])
        prefix.states_BPD[0, 2] = 1e3
        assert not torch.allclose(backbone(text, prefix).logits_BNV[0], before_BNV[0], atol=1e-2)


@torch.no_grad()
def test_prefix_at_the_input_is_an_inputs_embeds_pass(backbone: Backbone) -> None:
    prefix, ids_BN = some_prefix(2, 0), random_ids(2, 6)
    by_hand_BSV = backbone.model(
        inputs_embeds=torch.cat([prefix.states_BPD, backbone.embed(ids_BN)], 1),
        attention_mask=torch.cat([prefix.mask_BP, torch.ones(2, 6, dtype=torch.bool)], 1).long(),
        position_ids=torch.cat([prefix.positions_BP, prefix.start_B[:, None] + torch.arange(6)], 1),
    ).logits
    torch.testing.assert_close(backbone(full(ids_BN), prefix).logits_BNV, by_hand_BSV[:, 4:], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_slots_stand_behind_the_text_where_they_are_told(backbone: Backbone) -> None:
    prefix, ids_BN = some_prefix(2, 0), random_ids(2, 6)
    slots_BKD = torch.randn(2, 2, WIDTH, generator=torch.Generator().manual_seed(1))
    positions_BK, used_BK = torch.tensor([[1, 4]]).expand(2, -1), torch.ones(2, 2, dtype=torch.bool)
    out = backbone(full(ids_BN), prefix, slots_BKD, positions_BK, used_BK, capture=2)
    start_B1 = prefix.start_B[:, None]
    by_hand_BSD = backbone.model(
        inputs_embeds=torch.cat([prefix.states_BPD, backbone.embed(ids_BN), slots_BKD], 1),
        attention_mask=torch.cat([prefix.mask_BP, torch.ones(2, 8, dtype=torch.bool)], 1).long(),
        position_ids=torch.cat([prefix.positions_BP, start_B1 + torch.arange(6), start_B1 + positions_BK], 1),
        output_hidden_states=True,
    ).hidden_states[2]
    torch.testing.assert_close(out.slots_BKD, by_hand_BSD[:, 10:], atol=2e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_backbones_own_states_as_prefix_are_its_history(backbone: Backbone, layer: int) -> None:
    """True states of a history at layer L, at their true positions: below L the text is alone, from L on it is not."""
    history_BP, text_BN = random_ids(2, 5), random_ids(2, 6, seed=1)
    states_BPD = backbone.embed(history_BP)
    if layer > 0:
        states_BPD = backbone(full(history_BP), capture=layer, logits=False).text_BND
    prefix = Prefix(
        states_BPD, torch.ones(2, 5, dtype=torch.bool), torch.arange(5).expand(2, -1), torch.tensor([5, 5]), layer
    )
    got_BNV = backbone(full(text_BN), prefix).logits_BNV

    blocked = torch.full((11, 11), torch.finfo(torch.float32).min)
    together_SS = blocked.triu(1)
    apart_SS = together_SS.clone()
    apart_SS[5:, :5] = blocked[5:, :5]

    def keep_apart(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def other(value: Any) -> Any:
            is_mask = isinstance(value, Tensor) and value.shape[-2:] == (11, 11)
            return apart_SS[None, None].expand(2, 1, -1, -1) if is_mask else value

        return tuple(map(other, args)), {key: other(value) for key, value in kwargs.items()}

    handles = [module.register_forward_pre_hook(keep_apart, with_kwargs=True) for module in backbone.layers[:layer]]
    by_hand_BSV = backbone.model(
        torch.cat([history_BP, text_BN], 1), attention_mask=together_SS[None, None].expand(2, 1, -1, -1)
    ).logits
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(got_BNV, by_hand_BSV[:, 5:], atol=2e-5, rtol=1e-4)
    in_one_BSV = backbone(full(torch.cat([history_BP, text_BN], 1))).logits_BNV
    assert torch.allclose(in_one_BSV[:, 5:], got_BNV, atol=1e-4) is (layer == 0)


def greedy_without_cache(backbone: Backbone, prompt: list[int], prefix: Prefix | None, steps: int) -> list[int]:
    ids = list(prompt)
    for _ in range(steps):
        token = int(backbone(Segments.pad([ids]), prefix).logits_BNV[0, -1].argmax())
        if token == backbone.tokenizer.eos_token_id:
            break
        ids.append(token)
    return ids[len(prompt) :]


@torch.no_grad()
@pytest.mark.parametrize("layer", [None, 0, 2])
def test_cached_batched_generation_is_greedy_decoding_one_by_one(backbone: Backbone, layer: int | None) -> None:
    prefix = None if layer is None else some_prefix(3, layer, empty_rows=(1,))
    new = backbone.generate(ROWS, prefix, max_new_tokens=5, do_sample=False)
    for b, prompt in enumerate(ROWS):
        one = None if prefix is None else row_of(prefix, b)
        assert new[b] == greedy_without_cache(backbone, prompt, one, 5)
        assert new[b] == backbone.generate([prompt], one, max_new_tokens=5, do_sample=False)[0]
    assert any(new)


@torch.no_grad()
def test_beams_read_their_own_rows_prefix(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, prefix = tiny_backbone().eval(), some_prefix(2, 1)
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 3}
    together = backbone.generate(ROWS[:2], prefix, **options)
    assert together == [backbone.generate([ROWS[b]], row_of(prefix, b), **options)[0] for b in range(2)]


@torch.no_grad()
def test_generation_leaves_no_hook_behind(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, ids_BN = tiny_backbone().eval(), random_ids(1, 5)
    before_BNV = backbone(full(ids_BN)).logits_BNV
    with pytest.raises(ValueError):
        backbone.generate([[1, 2]], some_prefix(1, 2), no_such_option=1)
    backbone.generate([[1, 2]], some_prefix(1, 2), max_new_tokens=2)
    assert torch.equal(backbone(full(ids_BN)).logits_BNV, before_BNV)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in backbone.modules())


@torch.no_grad()
def test_capture_is_what_transformers_calls_hidden_states(backbone: Backbone, family: str) -> None:
    ids_BN = random_ids(2, 7)
    hidden = backbone.model(ids_BN, output_hidden_states=True).hidden_states
    for layer in range(1, LAYERS + 1):
        stopped = backbone(full(ids_BN), capture=layer, logits=False)
        passed = backbone(full(ids_BN), capture=layer)
        assert stopped.logits_BNV is None and torch.equal(stopped.text_BND, passed.text_BND)
        expected_BND = passed.text_BND
        if layer == LAYERS:
            expected_BND = reduce(getattr, FINAL_NORM[family].split("."), backbone.base)(expected_BND)
            behind = backbone(full(ids_BN), capture=backbone.output, logits=False)
            assert behind.logits_BNV is None and torch.equal(behind.text_BND, hidden[layer])
        torch.testing.assert_close(expected_BND, hidden[layer], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_pass_without_logits_ends_at_the_captured_layer(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone()
    reached: list[int] = []
    for i, layer in enumerate(backbone.layers):
        layer.register_forward_hook(lambda *_, i=i: reached.append(i))
    backbone(full(random_ids(1, 4)), capture=1, logits=False)
    assert reached == [0]


@torch.no_grad()
def test_tokenizer_without_pad_or_end(tiny_backbone: Callable[..., Backbone], byte_tokenizer: Any) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer.backend_tokenizer)
    model = tiny_model()
    model.generation_config.eos_token_id = None
    backbone = Backbone.wrap(model, bare, lora_rank=0)
    new = backbone.generate(ROWS, max_new_tokens=4, do_sample=False)
    assert [len(row) for row in new] == [4, 4, 4]
    assert new == [backbone.generate([row], max_new_tokens=4, do_sample=False)[0] for row in ROWS]


@torch.no_grad()
def test_an_end_mark_of_id_zero_ends_the_text(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone(lora_rank=0)
    free = backbone.generate([ROWS[0]], max_new_tokens=6, do_sample=False)[0]
    table_VD = backbone.base.lm_head.weight
    # Token 0 takes the place of the third token that would have come.
    table_VD[[0, free[2]]] = table_VD[[free[2], 0]]
    backbone.base.generation_config.eos_token_id = 0
    assert backbone.generate([ROWS[0]], max_new_tokens=6, do_sample=False)[0] == free[: free.index(free[2])]


def test_gradients_reach_the_adapters_and_only_them(backbone: Backbone) -> None:
    backbone(full(random_ids(2, 6)), some_prefix(2, 1)).logits_BNV.square().sum().backward()
    adapters = dict(backbone.adapter_parameters())
    assert adapters and all("lora_" in name for name in adapters)
    for name, parameter in backbone.model.named_parameters():
        if name in adapters:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None and not parameter.requires_grad, name


@pytest.mark.parametrize("trainable", [True, False])
def test_adapters_are_as_trainable_after_they_were_off(tiny_backbone: Callable[..., Backbone], trainable: bool) -> None:
    backbone = tiny_backbone()
    for _, parameter in backbone.adapter_parameters():
        parameter.requires_grad_(trainable)
    for _ in range(2):
        with backbone.adapters_off(), backbone.adapters_off():
            pass
        assert all(p.requires_grad is trainable for _, p in backbone.adapter_parameters())


def test_gradients_reach_a_prefix_at_every_layer(backbone: Backbone) -> None:
    for layer in range(LAYERS):
        prefix = some_prefix(2, layer)
        prefix.states_BPD.requires_grad_()
        backbone(full(random_ids(2, 6)), prefix).logits_BNV.square().sum().backward()
        read_BP = prefix.states_BPD.grad.abs().sum(-1) > 0
        assert torch.equal(read_BP, prefix.mask_BP)


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(backbone_folder: Path, dtype: str) -> None:
    backbone, single = (Backbone(str(backbone_folder), dtype=d, lora_rank=4).eval() for d in (dtype, "float32"))
    assert {p.dtype for _, p in backbone.adapter_parameters()} == {torch.float32}
    assert backbone.embedding_VD.dtype == backbone.compute
    text, prefix = Segments.pad(ROWS), some_prefix(3, 2)
    got, expected = backbone(text, prefix).logits_BNV.float(), single(text, prefix).logits_BNV
    assert ((got - expected)[text.mask_BN].norm() / expected[text.mask_BN].norm()) < 0.05
    assert len(backbone.generate(ROWS, prefix, max_new_tokens=2)) == 3


def test_fingerprint_tells_weights_and_tokenizers_apart(
    tiny_backbone: Callable[..., Backbone], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    first = tiny_backbone()
    assert first.fingerprint == tiny_backbone(lora_rank=0).fingerprint
    assert first.fingerprint != tiny_backbone(seed=1).fingerprint
    other = copy.deepcopy(byte_tokenizer)
    other.add_tokens(["<new>"])
    assert first.fingerprint != Backbone.wrap(tiny_model(), other).fingerprint


@torch.no_grad()
def test_what_cannot_be_asked_of_a_pass(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, text = tiny_backbone(), full(random_ids(1, 4))
    for id_ in (VOCABULARY, -1):
        with pytest.raises(InputError, match=f"token id {id_} is outside the vocabulary of {VOCABULARY}"):
            backbone(full(torch.tensor([[1, id_]])))
    for layer in (0, LAYERS + 2):
        with pytest.raises(ConfigError, match=f"layers 1 to {LAYERS}"):
            backbone(text, capture=layer)
    with pytest.raises(ConfigError, match=f"layer {LAYERS} of {LAYERS}"):
        backbone(text, some_prefix(1, LAYERS))
    with pytest.raises(ConfigError, match="positions and their mask"):
        backbone(text, slots_BKD=torch.zeros(1, 1, WIDTH))
    with pytest.raises(InputError, match="prompt 1 of 2 is empty"):
        backbone.generate([[1], []])
    with pytest.raises(InputError, match="no prompts"):
        backbone.generate([])


def test_a_model_that_hides_its_mask_from_its_layers_is_refused(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone()
    first = backbone.layers[0]
    copied = first.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "attention_mask": kwargs["attention_mask"].clone()}), with_kwargs=True
    )
    with pytest.raises(ConfigError, match="layer to 0"):
        backbone(full(random_ids(1, 4)), some_prefix(1, 1))
    copied.remove()
