"""Compressors against the equations they stand for, written out with transformers' model, one row at a time.

Two segments of two rows of unequal length, so that what is checked has padding and a recurrence; the references
have no batch and no padding. Values agree to 1e-4, gradients to 1e-4 of each parameter's largest.

Shape legend: B batch, N text tokens, K virtual tokens, S positions of one pass, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from r3mem import Backbone, MemoryState
from r3mem.compressors import AccumulatingSummaries, Compressor, InContextAutoencoder, MeanPool, RecurrentMemory
from tests.battery.compressor import random_text
from tests.tiny_models import LAYERS, WIDTH, tiny_model

RATIO = 4
# The second segment needs more slots than the first in one row, fewer in the other.
FIRST, SECOND = [11, 7], [6, 10]
#: Of one row: slots of both segments, logits at the second given the first, and where the first is to be reconstructed.
Row = tuple[Tensor, Tensor, Tensor, Tensor]


def awake(compressor: Compressor) -> Compressor:
    """Every parameter and buffer away from its start, where a wrong one would not be seen."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in [*compressor.parameters(), *compressor.buffers()]:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return compressor


def embedded(backbone: Backbone, ids_N: Tensor) -> Tensor:
    return nn.functional.embedding(ids_N, backbone.base.model.embed_tokens.weight)


def output(model: nn.Module, embeds_SD: Tensor) -> Tensor:
    """What the head reads, of input embeddings at positions 0, 1, ... under a causal mask."""
    n = len(embeds_SD)
    mask_SS = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)
    out = model.model(
        inputs_embeds=embeds_SD[None], attention_mask=mask_SS[None, None], position_ids=torch.arange(n)[None]
    )
    return out.last_hidden_state[0]


def through(backbone: Backbone, states_SD: Tensor, positions_S: Tensor, layers: range) -> Tensor:
    """States after some decoder layers, under a causal mask."""
    model, n = backbone.base.model, len(states_SD)
    mask_SS = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)[None, None]
    states_1SD, positions_1S = states_SD[None], positions_S[None]
    rotary = model.rotary_emb(states_1SD, positions_1S)
    for layer in layers:
        states_1SD = model.layers[layer](
            states_1SD, attention_mask=mask_SS, position_ids=positions_1S, position_embeddings=rotary
        )
    return states_1SD[0]


def agree(
    compressor: Compressor,
    backbone: Backbone,
    reference: Callable[[Tensor, Tensor], Row],
    idle: Callable[[str], bool] = lambda name: False,
) -> None:
    """Both ways of two segments: the same slots and logits, and the same gradients of everything trainable.

    Args:
        compressor: Our way.
        backbone: The language model of both.
        reference: The written out way of one row.
        idle: Names what is trainable and reaches nothing.
    """
    texts = [random_text(FIRST), random_text(SECOND, seed=1)]
    parameters = {
        name: p for name, p in (*compressor.named_parameters(), *backbone.adapter_parameters()) if not idle(name)
    }
    draw = torch.Generator().manual_seed(9)
    weight_VD = torch.randn(backbone.vocabulary, WIDTH, generator=draw)
    weight_KW = torch.randn(max(SECOND), compressor.memory_width(backbone), generator=draw)

    first = compressor(backbone, texts[0], None, logits=False)
    memory = MemoryState(first.slots_BKD, texts[0].lengths_B, RATIO)
    second = compressor(backbone, texts[1], memory)
    with compressor.reading(backbone):
        reconstructed_BNV = backbone(texts[0], compressor.read_to_reconstruct(memory)).logits_BNV
    ours: list[Row] = []
    for b in range(2):
        before, after = -(-FIRST[b] // RATIO), -(-SECOND[b] // RATIO)
        slots = (first.slots_BKD[b, :before], second.slots_BKD[b, :after])
        ours.append((*slots, second.logits_BNV[b, : SECOND[b]], reconstructed_BNV[b, : FIRST[b]]))
    theirs = [reference(*(text.ids_BN[b, : text.lengths_B[b]] for text in texts)) for b in range(2)]

    gradients: list[list[Tensor]] = []
    for rows in (ours, theirs):
        loss = torch.zeros(())
        for _, slots_KD, *logits in rows:
            loss = loss + (torch.tanh(slots_KD) * weight_KW[: len(slots_KD)]).sum()
            loss = loss + sum((logits_NV.log_softmax(-1) @ weight_VD).square().mean() for logits_NV in logits)
        gradients.append(list(torch.autograd.grad(loss, list(parameters.values()))))
    for own, written_out in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, written_out, atol=1e-4, rtol=1e-4)
    for name, own_grad, plain_grad in zip(parameters, *gradients, strict=True):
        scale = float(plain_grad.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(own_grad, plain_grad, atol=1e-4 * scale, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_recurrent_memory(backbone: Backbone) -> None:
    """``[M ; x ; M]``: the output at the end is the next ``M`` (2207.06881, section 3)."""
    compressor = awake(RecurrentMemory(WIDTH, RATIO, slots=4))
    initial_SD = compressor.initial_SD

    def step(memory_KD: Tensor, write_KD: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
        out_SD = output(backbone.base, torch.cat([memory_KD, embedded(backbone, ids_N), write_KD]))
        text_ND = out_SD[len(memory_KD) : len(memory_KD) + len(ids_N)]
        return out_SD[-len(write_KD) :], text_ND @ backbone.base.lm_head.weight.T

    def reference(first_N: Tensor, second_N: Tensor) -> Row:
        before, after = -(-len(first_N) // RATIO), -(-len(second_N) // RATIO)
        memory_KD, _ = step(initial_SD[:before], initial_SD[:before], first_N)
        write_KD = torch.cat([memory_KD, initial_SD[before:]])[:after]
        return (memory_KD, *step(memory_KD, write_KD, second_N), step(memory_KD, write_KD, first_N)[1])

    agree(compressor, backbone, reference)


def test_accumulating_summaries(backbone: Backbone) -> None:
    """``[M_1 ; x ; s]``: the output at the end is kept beside ``M_1`` (2305.14788, section 3)."""
    compressor = awake(AccumulatingSummaries(WIDTH, RATIO, slots=4))

    def step(memory_KD: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
        vectors_KD = compressor.initial_SD[: -(-len(ids_N) // RATIO)]
        out_SD = output(backbone.base, torch.cat([memory_KD, embedded(backbone, ids_N), vectors_KD]))
        n_before, n_text = len(memory_KD), len(ids_N)
        return out_SD[n_before + n_text :], out_SD[n_before : n_before + n_text] @ backbone.base.lm_head.weight.T

    def reference(first_N: Tensor, second_N: Tensor) -> Row:
        memory_KD, _ = step(compressor.initial_SD[:0], first_N)
        return (memory_KD, *step(memory_KD, second_N), step(memory_KD, first_N)[1])

    agree(compressor, backbone, reference)


def test_mean_pool(backbone: Backbone) -> None:
    """Slots are means of the states that enter layer 2; they are read at layer 1, at the centre of what they cover."""
    compressor = awake(MeanPool(WIDTH, RATIO, write_layer=2, read_layer=1))
    writer, reader = compressor.writer, compressor.reader

    def pooled(states_ND: Tensor) -> Tensor:
        rows = []
        for start in range(0, len(states_ND), RATIO):
            # The very first token is the attention sink.
            rows.append(states_ND[max(1, start) : start + RATIO].mean(0))
        return ((torch.stack(rows) - writer.centre_D) / writer.scale_D) @ writer.map_DD.T

    def reference(first_N: Tensor, second_N: Tensor) -> Row:
        n_first = len(first_N)
        slots_KD = pooled(through(backbone, embedded(backbone, first_N), torch.arange(n_first), range(2)))
        read_KD = (slots_KD @ reader.map_DD.T + reader.bias_D) * reader.scale_D
        prefix_PD = torch.cat([(reader.anchor_D * reader.scale_D)[None], read_KD])
        centres_K = torch.arange(len(slots_KD)) * RATIO + (RATIO - 1) // 2

        def read(ids_N: Tensor) -> tuple[Tensor, Tensor]:
            positions_N = n_first + torch.arange(len(ids_N))
            below_ND = through(backbone, embedded(backbone, ids_N), positions_N, range(1))
            positions_S = torch.cat([torch.zeros(1, dtype=torch.long), centres_K, positions_N])
            states_SD = through(backbone, torch.cat([prefix_PD, below_ND]), positions_S, range(1, 2))
            above_SD = through(backbone, states_SD, positions_S, range(2, LAYERS))
            logits_NV = backbone.base.model.norm(above_SD[-len(ids_N) :]) @ backbone.base.lm_head.weight.T
            return states_SD[-len(ids_N) :], logits_NV

        states_ND, logits_NV = read(second_N)
        return slots_KD, pooled(states_ND), logits_NV, read(first_N)[1]

    agree(compressor, backbone, reference)


def test_in_context_autoencoder(backbone: Backbone) -> None:
    """``[x ; m]`` is written with adapters, ``[M ; task ; x]`` read by the model as it was (2307.06945, section 2)."""
    compressor, frozen = awake(InContextAutoencoder(WIDTH, RATIO, slots=4)), tiny_model().requires_grad_(False)

    def write(ids_N: Tensor) -> Tensor:
        vectors_KD = compressor.initial_SD[: -(-len(ids_N) // RATIO)]
        return output(backbone.base, torch.cat([embedded(backbone, ids_N), vectors_KD]))[len(ids_N) :]

    def read(slots_KD: Tensor, task_D: Tensor, ids_N: Tensor) -> Tensor:
        out_SD = output(frozen, torch.cat([slots_KD, task_D[None], embedded(backbone, ids_N)]))
        return out_SD[len(slots_KD) + 1 :] @ frozen.lm_head.weight.T

    def reference(first_N: Tensor, second_N: Tensor) -> Row:
        slots_KD = write(first_N)
        continued_NV = read(slots_KD, compressor.continue_D, second_N)
        return slots_KD, write(second_N), continued_NV, read(slots_KD, compressor.spell_D, first_N)

    agree(compressor, backbone, reference)
