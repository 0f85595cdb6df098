"""Packed rows against padded ones: the same values, losses and gradients, and rows that cannot see one another.

Shape legend: B batch, P prefix, N text tokens, K write slots, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from r3mem import Backbone, ConfigError, Segments
from r3mem.backbone import Pass
from r3mem.backbone.packing import Packing, check_packing, first_fit
from r3mem.backbone.pass_layout import PassLayout
from r3mem.backbone.prefix import Prefix
from r3mem.objectives import forward_nll, reconstruction_nll
from tests.tiny_models import FAMILIES, LAYERS, VOCABULARY, WIDTH, awaken_adapters, tiny_model

LENGTHS = (7, 0, 3, 1, 12, 5)
LONGEST, P, K = 24, 4, 3
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest, tiny_backbone: Callable[..., Backbone]) -> Backbone:
    made = tiny_backbone(request.param).eval()
    awaken_adapters(made)
    return made


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def texts(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> Segments:
    generator = torch.Generator().manual_seed(seed)
    return Segments.pad([torch.randint(0, 256, (n,), generator=generator).tolist() for n in lengths])


def some_prefix(n_batch: int, layer: int, seed: int = 1) -> Prefix:
    """Prefixes of every length from none to all, not always in front."""
    used_BP = torch.rand(n_batch, P, generator=torch.Generator().manual_seed(seed)) < 0.6
    used_BP[0], used_BP[-1] = True, False
    positions_BP = torch.arange(0, 3 * P, 3).expand(n_batch, -1)
    return Prefix(normal(n_batch, P, WIDTH, seed=seed), used_BP, positions_BP, used_BP.any(1).long() * 3 * P, layer)


def some_slots(text: Segments, among: bool, seed: int = 2) -> dict[str, Tensor]:
    n_batch = len(text.lengths_B)
    number_B = torch.randint(0, K + 1, (n_batch,), generator=torch.Generator().manual_seed(seed)).clamp(
        max=text.lengths_B
    )
    number_B[0] = min(K, int(text.lengths_B[0]))
    given = {
        "slots_BKD": normal(n_batch, K, WIDTH, seed=seed),
        "slot_mask_BK": torch.arange(K) < number_B[:, None],
    }
    place_BK = (torch.arange(1, K + 1) * 3).expand(n_batch, -1).minimum(text.lengths_B[:, None])
    return given | {"slots_after_BK" if among else "slot_positions_BK": place_BK}


def both(backbone: Backbone, longest: int, *args: Any, **options: Any) -> tuple[Pass, Pass, tuple[int, ...]]:
    """The pass padded, the same packed, and the shape that went through the packed one's first layer."""
    padded, seen = backbone(*args, **options), []
    watch = backbone.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple((args[0] if args else kwargs["hidden_states"]).shape)),
        with_kwargs=True,
    )
    backbone.pack = longest
    try:
        packed = backbone(*args, **options)
    finally:
        backbone.pack = None
        watch.remove()
    return padded, packed, seen[0]


def assert_same(padded: Pass, packed: Pass, text: Segments, prefix: Prefix | None, slots: dict[str, Tensor]) -> None:
    has_state_B = torch.zeros_like(text.lengths_B, dtype=torch.bool) if prefix is None else prefix.mask_BP.any(1)
    where = {"scores": text.mask_BN, "text_BND": text.mask_BN, "opening": has_state_B}
    for field in fields(Pass):
        a, b = getattr(padded, field.name), getattr(packed, field.name)
        assert (a is None) == (b is None), field.name
        if a is not None:
            assert a.shape == b.shape and a.dtype == b.dtype, field.name
            used = where.get(field.name, slots.get("slot_mask_BK"))
            torch.testing.assert_close(b[used], a[used], **TOLERANCE)
            assert torch.isfinite(b).all()


@torch.no_grad()
@pytest.mark.parametrize("slots", [None, "behind", "among"])
@pytest.mark.parametrize("layer", [None, 0, 1, 2])
def test_packed_is_padded(backbone: Backbone, layer: int | None, slots: str | None) -> None:
    text = texts()
    prefix = None if layer is None else some_prefix(len(LENGTHS), layer)
    written = {} if slots is None else some_slots(text, slots == "among")
    for capture in (None, 1, 2, LAYERS, backbone.output):
        for logits in (True, False) if capture else (True,):
            *made, (rows, width, _) = both(backbone, LONGEST, text, prefix, **written, capture=capture, logits=logits)
            assert_same(*made, text, prefix, written)
            assert rows * width < len(LENGTHS) * (12 + (0 if layer is None else P) + (0 if slots is None else K))


def gradients(
    backbone: Backbone, made: Pass, leaves: list[Tensor], text: Segments, slot_mask_BK: Tensor
) -> dict[str, Tensor]:
    """The loss and its gradients. Every state counts with a weight of its own: a gradient laid elsewhere is another."""
    total, count = forward_nll(made.logits_BNV, text, text.lengths_B > 0)
    loss = total / count
    if made.opening_BV is not None:
        loss = loss + reconstruction_nll(made, text)[0]
    for states, used in ((made.text_BND, text.mask_BN), (made.slots_BKD, slot_mask_BK)):
        loss = loss + (states * normal(*states.shape, seed=7))[used].square().sum()
    named = dict(backbone.adapter_parameters()) | {f"leaf {i}": leaf for i, leaf in enumerate(leaves)}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {"loss": loss.detach()} | dict(zip(named, found, strict=True))


@pytest.mark.parametrize("among", [False, True])
@pytest.mark.parametrize("layer", [None, 0, 2])
def test_losses_and_gradients_are_the_same(backbone: Backbone, layer: int | None, among: bool) -> None:
    text, written = texts(), some_slots(texts(), among)
    prefix = None if layer is None else some_prefix(len(LENGTHS), layer)
    leaves = [written["slots_BKD"].requires_grad_()]
    if prefix is not None:
        prefix.mask_BP[-1], prefix.start_B[-1] = True, 3 * P  # Without a state there is no opening to be the same.
        for b, empty in enumerate((~prefix.mask_BP.any(1)).tolist()):
            prefix.mask_BP[b, 1] |= empty
        leaves.append(prefix.states_BPD.requires_grad_())
    *passes, _ = both(backbone, LONGEST, text, prefix, **written, capture=2)
    expected, got = (gradients(backbone, made, leaves, text, written["slot_mask_BK"]) for made in passes)
    assert sum(bool(g.abs().sum() > 0) for g in expected.values() if g is not None) > len(leaves) + 8
    for name, value in expected.items():
        assert (value is None) == (got[name] is None), name
        if value is not None:
            scale = value.abs().max().clamp(min=1e-6)
            torch.testing.assert_close(got[name] / scale, value / scale, atol=1e-4, rtol=0, msg=name)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=9), longest=st.integers(1, 80),
    layer=st.none() | st.integers(0, LAYERS - 1), slots=st.sampled_from([None, "behind", "among"]),
    capture=st.none() | st.integers(1, LAYERS + 1), seed=st.integers(0, 99),
)  # fmt: skip
@torch.no_grad()
def test_any_pass(
    any_backbone: Backbone, lengths: list[int], longest: int, layer: int | None, slots: str | None,
    capture: int | None, seed: int,
) -> None:  # fmt: skip
    text = texts(tuple(lengths), seed)
    prefix = None if layer is None else some_prefix(len(lengths), layer, seed)
    written = {} if slots is None else some_slots(text, slots == "among", seed)
    *made, _ = both(any_backbone, longest, text, prefix, **written, capture=capture)
    assert_same(*made, text, prefix, written)


@pytest.fixture(scope="module")
def any_backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    made = tiny_backbone().eval()
    awaken_adapters(made)
    return made


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_paths_and_precisions(backbone_folder: Any, attention: str, dtype: str) -> None:
    backbone = Backbone(str(backbone_folder), dtype, lora_rank=4, attn_implementation=attention, pack=LONGEST).eval()
    assert backbone.pack == LONGEST
    text, prefix = texts(), some_prefix(len(LENGTHS), 2)
    *made, _ = both(backbone, LONGEST, text, prefix)
    padded, packed = (one.logits_BNV[text.mask_BN].float() for one in made)
    assert (packed - padded).norm() / padded.norm() < (1e-5 if dtype == "float32" else 0.02)


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("among", [False, True])
def test_no_row_sees_another(backbone: Backbone, layer: int, among: bool) -> None:
    """Another text, prefix and slots in one row: every other row's outputs are the same bit for bit."""
    backbone.pack, text, changed = LONGEST, texts(), texts(seed=5)
    for b in range(len(LENGTHS)):
        prefix, written = some_prefix(len(LENGTHS), layer), some_slots(text, among)
        before = backbone(text, prefix, **written, capture=2)
        other = Segments(text.ids_BN.clone(), text.lengths_B)
        other.ids_BN[b] = changed.ids_BN[b]
        prefix.states_BPD[b] += 3
        written["slots_BKD"][b] -= 3
        after = backbone(other, prefix, **written, capture=2)
        others_B = torch.arange(len(LENGTHS)) != b
        for name in ("logits_BNV", "text_BND", "slots_BKD", "opening_BV"):
            one, two = getattr(before, name), getattr(after, name)
            assert torch.equal(one[others_B], two[others_B]), name
        if LENGTHS[b]:
            assert not torch.allclose(before.logits_BNV[b], after.logits_BNV[b], atol=1e-2)


@torch.no_grad()
def test_padding_gives_nothing(backbone: Backbone) -> None:
    backbone.pack, text = LONGEST, texts()
    text.ids_BN[~text.mask_BN] = VOCABULARY + 7
    made = backbone(text, capture=2)
    assert not made.logits_BNV[~text.mask_BN].any() and not made.text_BND[~text.mask_BN].any()


@torch.no_grad()
def test_rows_are_packed_only_where_that_saves_positions(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone()
    for lengths, longest, shape in (
        ((8, 8, 8), 100, (3, 8)), ((8, 8, 8), 8, (3, 8)), ((8, 4, 4), 8, (2, 8)), ((8, 4, 4), 16, (1, 16)),
        ((8, 3), 4, (2, 8)), ((0, 0), 4, (2, 1)), ((20, 2, 2), 4, (2, 20)), ((9, 1, 1, 1), 10, (2, 10)),
    ):  # fmt: skip
        padded, packed, seen = both(backbone, longest, texts(lengths))
        assert seen == (*shape, WIDTH), lengths
        torch.testing.assert_close(padded.logits_BNV[texts(lengths).mask_BN], packed.logits_BNV[texts(lengths).mask_BN])


@torch.no_grad()
def test_the_head_reads_the_text_alone(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, read = tiny_backbone(pack=LONGEST), []
    backbone.base.lm_head.register_forward_hook(lambda _, args, out: read.append(tuple(out.shape)))
    backbone(texts(), **some_slots(texts(), False), capture=1)
    assert read == [(1, sum(LENGTHS), VOCABULARY)]
    prefix = some_prefix(len(LENGTHS), 1)
    made = backbone(texts(), prefix)
    has_state_B = prefix.mask_BP.any(1)
    assert read[1:] == [(1, sum(LENGTHS) + int(has_state_B.sum()), VOCABULARY)]
    assert not has_state_B.all() and not made.opening_BV[~has_state_B].any() and made.opening_BV[has_state_B].all()
    assert not backbone.base.lm_head._forward_pre_hooks


@torch.no_grad()
def test_passes_with_keys_and_values_are_padded(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, text = tiny_backbone().eval(), texts()
    written = some_slots(text, False)
    padded, packed, seen = both(backbone, LONGEST, text, **written, key_values=True)
    assert seen[:2] == (len(LENGTHS), 12 + K) and torch.equal(padded.key_values_BKW, packed.key_values_BKW)
    key_values_BMW = packed.key_values_BKW
    positions_BM = torch.arange(K).expand(len(LENGTHS), -1)
    prefix = Prefix(
        torch.zeros(len(LENGTHS), 0, WIDTH), written["slot_mask_BK"], positions_BM,
        torch.full((len(LENGTHS),), K), key_values_BMW=key_values_BMW,
    )  # fmt: skip
    padded, packed, seen = both(backbone, LONGEST, text, prefix)
    assert seen[:2] == (len(LENGTHS), 12) and torch.equal(padded.logits_BNV, packed.logits_BNV)


def test_first_fit() -> None:
    assert first_fit([3, 8, 0, 5, 2, 2], 8) == [[1], [3, 0], [4, 5]]
    assert first_fit([3, 9], 8) == [[1], [0]] and first_fit([0, 0], 8) == []


def test_layout_of_packed_rows() -> None:
    text = Segments(torch.zeros(3, 4, dtype=torch.long), torch.tensor([2, 4, 1]))
    layout = PassLayout.of(text, None, None, None, None)
    packing = Packing.of(layout, 0, 4, 4)
    assert packing.row_RZ.tolist() == [[1, 1, 1, 1], [0, 0, 2, -1]]
    assert packing.positions_RZ.tolist() == [[0, 1, 2, 3], [0, 1, 0, 0]]
    seen_ZZ = (packing.masks(torch.float32).all_layers == 0)[1, 0].int().tolist()
    assert seen_ZZ == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


class Leaky(nn.Module):
    """A layer that carries a state along the row, as a recurrent model's do."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.layer(hidden_states + 0.1 * hidden_states.cumsum(1), *args, **kwargs)


def test_models_that_cannot_keep_rows_apart_are_refused(
    tiny_backbone: Callable[..., Backbone], byte_tokenizer: Any
) -> None:
    model = tiny_model()
    model.model.layers[1] = Leaky(model.model.layers[1])
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM.*see each other.*pack to null"):
        Backbone.wrap(model, byte_tokenizer, lora_rank=0, pack=32)
    assert Backbone.wrap(model, byte_tokenizer, lora_rank=0).pack is None
    backbone = tiny_backbone()
    backbone._signature = backbone._signature - {"position_ids"}
    with pytest.raises(ConfigError, match=r"takes no position ids.*pack to null"):
        check_packing(backbone, 32)
    for longest in (0, -5):
        with pytest.raises(ConfigError, match=f"pack {longest} is not possible"):
            tiny_backbone(pack=longest)


def test_models_that_ignore_their_position_ids_are_refused(byte_tokenizer: Any) -> None:
    model = tiny_model("gpt2")
    model.transformer.wpe.register_forward_pre_hook(lambda _, args: (torch.arange(args[0].shape[-1])[None],))
    with pytest.raises(ConfigError, match="pack to null"):
        Backbone.wrap(model, byte_tokenizer, lora_rank=0, pack=32)


def test_every_family_of_the_tests_can_be_packed(tiny_backbone: Callable[..., Backbone]) -> None:
    for family in FAMILIES:
        backbone = tiny_backbone(family, pack=32)
        assert backbone.pack == 32 and backbone.training
