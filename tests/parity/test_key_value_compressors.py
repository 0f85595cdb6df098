"""Memories of keys and values against what they stand for, written out with transformers' model, one row at a time.

Slots are compared with the outputs of the model's own key and value projections, before any rotation; what is read,
with transformers' cache, filled with keys that are turned by hand, or with one pass under a mask.

Shape legend: N text tokens, K virtual tokens, P cached positions, S positions of one pass, D width, H heads of keys and
values, E width of a head, W = 2 * layers * H * E, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from r3mem import Backbone, MemoryState
from r3mem.compressors import ActivationBeacon, FiveHundredXCompressor, GistTokens
from tests.battery.compressor import random_text
from tests.parity.test_compressors import RATIO, Row, agree, awake, embedded
from tests.tiny_models import HEAD_WIDTH, KEY_VALUE_HEADS, LAYERS, tiny_model

HIDDEN = torch.finfo(torch.float32).min


@contextmanager
def projected(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside, gives ``KW`` of some places of the last pass: what the projections made there, the last layer first."""
    made: list[Tensor] = []
    handles = [
        projection.register_forward_hook(lambda _, __, output_1SX: made.append(output_1SX[0]))
        for layer in model.model.layers
        for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj)
    ]

    def slots(places_K: Tensor) -> Tensor:
        layers = zip(made[-2 * LAYERS :: 2], made[1 - 2 * LAYERS :: 2], strict=True)
        return torch.cat([output_SX[places_K] for pair in reversed(list(layers)) for output_SX in pair], 1)

    try:
        yield slots
    finally:
        for handle in handles:
            handle.remove()


def cache_of(model: nn.Module, slots_PW: Tensor) -> DynamicCache:
    """Transformers' cache of memory tokens at positions 0, 1, ..."""
    angle_PE = (torch.arange(len(slots_PW))[:, None] * model.model.rotary_emb.inv_freq).repeat(1, 2)
    cache = DynamicCache()
    parts = slots_PW.split(KEY_VALUE_HEADS * HEAD_WIDTH, 1)
    for layer, (keys_PX, values_PX) in enumerate(zip(parts[-2::-2], parts[-1::-2], strict=True)):
        keys_HPE, values_HPE = (
            t_PX.unflatten(1, (KEY_VALUE_HEADS, HEAD_WIDTH)).transpose(0, 1) for t_PX in (keys_PX, values_PX)
        )
        first_HPX, second_HPX = keys_HPE.chunk(2, -1)
        turned_HPE = keys_HPE * angle_PE.cos() + torch.cat([-second_HPX, first_HPX], -1) * angle_PE.sin()
        cache.update(turned_HPE[None], values_HPE[None], layer)
    return cache


def after(model: nn.Module, slots_PW: Tensor, embeds_SD: Tensor) -> Tensor:
    """Logits ``SV`` of what follows some memory tokens."""
    positions_S = len(slots_PW) + torch.arange(len(embeds_SD))
    cache = cache_of(model, slots_PW) if len(slots_PW) else None
    made = model(inputs_embeds=embeds_SD[None], position_ids=positions_S[None], past_key_values=cache)
    return made.logits[0]


def test_gist_tokens(backbone: Backbone) -> None:
    """Two passes are one under the gist mask, in which what follows a gist does not see what is in front of it."""
    compressor = awake(GistTokens(32, RATIO))

    def one_pass(first_N: Tensor, second_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n_first, n_second = len(first_N), len(second_N)
        before, behind = -(-n_first // RATIO), -(-n_second // RATIO)
        gist_KD = compressor.initial_SD
        pieces = [embedded(backbone, first_N), gist_KD.expand(before, -1), embedded(backbone, second_N)]
        embeds_SD = torch.cat([*pieces, gist_KD.expand(behind, -1)])
        places_S, start = torch.arange(len(embeds_SD)), n_first + before
        mask_SS = torch.full((len(embeds_SD), len(embeds_SD)), HIDDEN).triu(1)
        mask_SS[start:, :n_first] = HIDDEN
        with projected(backbone.base) as slots:
            logits_SV = backbone.base(
                inputs_embeds=embeds_SD[None], attention_mask=mask_SS[None, None], position_ids=places_S[None]
            ).logits[0]
            made = slots(places_S[n_first:start]), slots(places_S[start + n_second :])
        return *made, logits_SV[start : start + n_second]

    def reference(first_N: Tensor, second_N: Tensor) -> Row:
        return *one_pass(first_N, second_N), one_pass(first_N, first_N)[2]

    agree(compressor, backbone, reference)


def beacons(
    backbone: Backbone, compressor: ActivationBeacon, ids_N: Tensor, before_PW: Tensor
) -> tuple[Tensor, Tensor]:
    """Beacons ``KW`` and the logits ``NV`` of a text that follows others, token after token in order."""
    rows, is_beacon = [], []
    for n, embedded_D in enumerate(embedded(backbone, ids_N)):
        rows.append(embedded_D)
        is_beacon.append(False)
        if (n + 1) % RATIO == 0 or n + 1 == len(ids_N):
            rows.append(compressor.initial_SD[0])
            is_beacon.append(True)
    with projected(backbone.base) as slots:
        logits_SV = after(backbone.base, before_PW, torch.stack(rows))
        return slots(torch.tensor(is_beacon).nonzero()[:, 0]), logits_SV[~torch.tensor(is_beacon)]


def test_activation_beacon(backbone: Backbone) -> None:
    """Beacons stand among the text, in a plain causal pass; the cache of the next holds them alone (2401.03462)."""
    compressor = awake(ActivationBeacon(32, RATIO))

    def reference(first_N: Tensor, second_N: Tensor) -> Row:
        nothing_PW = torch.zeros(0, compressor.memory_width(backbone))
        first_KW, _ = beacons(backbone, compressor, first_N, nothing_PW)
        second_KW, logits_NV = beacons(backbone, compressor, second_N, first_KW)
        # A text that is only read has no beacons.
        return first_KW, second_KW, logits_NV, after(backbone.base, first_KW, embedded(backbone, first_N))

    agree(compressor, backbone, reference)


@torch.no_grad()
def test_beacons_of_all_segments_are_read_side_by_side(backbone: Backbone) -> None:
    compressor = awake(ActivationBeacon(32, RATIO))
    texts = [random_text([11, 7]), random_text([6, 0], seed=1), random_text([5, 10], seed=2)]
    state: MemoryState | None = None
    held_PW = [torch.zeros(0, compressor.memory_width(backbone))] * 2
    for text in texts:
        written = compressor(backbone, text, state)
        state = compressor.next_state(backbone, state, MemoryState(written.slots_BKD, text.lengths_B, RATIO))
        for b, length in enumerate(text.lengths_B.tolist()):
            if length:
                made_KW, logits_NV = beacons(backbone, compressor, text.ids_BN[b, :length], held_PW[b])
                torch.testing.assert_close(written.logits_BNV[b, :length], logits_NV, atol=2e-4, rtol=1e-4)
                held_PW[b] = torch.cat([held_PW[b], made_KW])
    for b, count in enumerate(state.mask_BK.sum(1).tolist()):
        assert count == len(held_PW[b])
        torch.testing.assert_close(state.slots_BKD[b, :count], held_PW[b], atol=2e-4, rtol=1e-4)


def test_five_hundred_x_compressor(backbone: Backbone) -> None:
    """``[x ; m]`` is written with adapters; the model as it was reads the cache, then a text, or BOS and a text."""
    compressor, frozen = awake(FiveHundredXCompressor(32, RATIO, slots=4)), tiny_model().requires_grad_(False)

    def write(ids_N: Tensor) -> Tensor:
        vectors_KD = compressor.initial_SD[: -(-len(ids_N) // RATIO)]
        with projected(backbone.base) as slots:
            nothing_PW = torch.zeros(0, compressor.memory_width(backbone))
            after(backbone.base, nothing_PW, torch.cat([embedded(backbone, ids_N), vectors_KD]))
            return slots(len(ids_N) + torch.arange(len(vectors_KD)))

    def reference(first_N: Tensor, second_N: Tensor) -> Row:
        slots_KW = write(first_N)
        # The tokenizer of the tests has no BOS but an end.
        begin_1D = embedded(backbone, torch.tensor([backbone.tokenizer.eos_token_id]))
        reconstructed_SV = after(frozen, slots_KW, torch.cat([begin_1D, embedded(backbone, first_N)]))
        return slots_KW, write(second_N), after(frozen, slots_KW, embedded(backbone, second_N)), reconstructed_SV[1:]

    def idle(name: str) -> bool:
        return f".{LAYERS - 1}." in name and not ("k_proj" in name or "v_proj" in name)

    agree(compressor, backbone, reference, idle)


@torch.no_grad()
def test_without_rotary_positions_one_segment_s_gist_is_that_of_one_pass(
    tiny_backbone: Callable[..., Backbone],
) -> None:
    """GPT-2: keys cannot be turned back, but they are kept and read as they are, where they are."""
    backbone, text, compressor = tiny_backbone("gpt2", lora_rank=0).eval(), random_text([8]), awake(GistTokens(32, 4))
    written = compressor(backbone, text, None)
    cache = DynamicCache()
    embeds_1SD = torch.cat([backbone.embed(text.ids_BN), compressor.initial_SD.expand(1, 2, -1)], 1)
    backbone.base(inputs_embeds=embeds_1SD, past_key_values=cache, use_cache=True)
    for layer, (keys, values) in enumerate(backbone.key_values.pairs(written.slots_BKD, torch.arange(2)[None])):
        for ours_1HPE, theirs_1HSE in ((keys, cache.layers[layer].keys), (values, cache.layers[layer].values)):
            torch.testing.assert_close(ours_1HPE, theirs_1HSE[:, :, 8:], atol=1e-5, rtol=1e-4)
