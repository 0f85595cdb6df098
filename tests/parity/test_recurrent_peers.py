"""Recurrent peers against the equations they stand for, written out one row, one slot and one head at a time.

As ``tests/parity/test_compressors.py``: two segments of two rows of unequal length, values to 1e-4, gradients to 1e-4
of each parameter's largest.

Shape legend: N text tokens, K virtual tokens, P prefix states, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from r3mem import Backbone
from r3mem.compressors import AssociativeBlocks, Memformer, RetentionValve
from r3mem.compressors.parts.external_memory import ExternalMemory
from tests.parity.test_compressors import RATIO, Row, agree, awake, embedded, output, through
from tests.tiny_models import LAYERS, WIDTH


def slots_of(ids_N: Tensor) -> int:
    return -(-len(ids_N) // RATIO)


def test_retention_valve(backbone: Backbone) -> None:
    """``[M ; x ; M] -> out``, then ``M' = attention(queries M, keys and values out)`` (2306.09459)."""
    valve = awake(RetentionValve(WIDTH, RATIO, slots=4, heads=2))
    initial_SD, size = valve.initial_SD, WIDTH // 2

    def kept(old_KD: Tensor, new_KD: Tensor) -> Tensor:
        rows = []
        for old_D in old_KD:
            query_D = valve.query.weight @ old_D + valve.query.bias
            heads = []
            for h in range(2):
                part = slice(h * size, (h + 1) * size)
                keys = [(valve.key.weight @ new_D)[part] for new_D in new_KD]
                values = [(valve.value.weight @ new_D + valve.value.bias)[part] for new_D in new_KD]
                scores = torch.stack([query_D[part] @ key for key in keys]) / math.sqrt(size)
                heads.append(sum(w * v for w, v in zip(scores.exp() / scores.exp().sum(), values, strict=True)))
            rows.append(valve.out.weight @ torch.cat(heads) + valve.out.bias)
        return torch.stack(rows)

    def step(memory_KD: Tensor, write_KD: Tensor, ids_N: Tensor) -> tuple[Tensor, Tensor]:
        out_SD = output(backbone.base, torch.cat([memory_KD, embedded(backbone, ids_N), write_KD]))
        text_ND = out_SD[len(memory_KD) : len(memory_KD) + len(ids_N)]
        return kept(write_KD, out_SD[-len(write_KD) :]), text_ND @ backbone.base.lm_head.weight.T

    def reference(first_N: Tensor, second_N: Tensor) -> Row:
        before, after = slots_of(first_N), slots_of(second_N)
        memory_KD, _ = step(initial_SD[:before], initial_SD[:before], first_N)
        write_KD = torch.cat([memory_KD, initial_SD[before:]])[:after]
        return (memory_KD, *step(memory_KD, write_KD, second_N), step(memory_KD, write_KD, first_N)[1])

    agree(valve, backbone, reference)


def read_in_front(
    backbone: Backbone,
    compressor: ExternalMemory,
    read_KD: Tensor | None,
    n_before: int,
    ids_N: Tensor,
) -> tuple[Tensor, Tensor]:
    """The model's output at a text, and its logits, with what is read of a memory standing in front at one layer."""
    reader, layer = compressor.reader, compressor.read_layer
    positions_N = n_before + torch.arange(len(ids_N))
    states_SD, positions_S = embedded(backbone, ids_N), positions_N
    states_SD = through(backbone, states_SD, positions_S, range(layer))
    if read_KD is not None:
        prefix_KD = (read_KD @ reader.map_DD.T + reader.bias_D) * reader.scale_D
        centres_K = torch.arange(len(read_KD)) * RATIO + (RATIO - 1) // 2
        states_SD = torch.cat([(reader.anchor_D * reader.scale_D)[None], prefix_KD, states_SD])
        positions_S = torch.cat([torch.zeros(1, dtype=torch.long), centres_K, positions_N])
    states_SD = through(backbone, states_SD, positions_S, range(layer, LAYERS))
    text_ND = backbone.base.model.norm(states_SD[-len(ids_N) :])
    return text_ND, text_ND @ backbone.base.lm_head.weight.T


def external(
    backbone: Backbone,
    compressor: ExternalMemory,
    start_SD: Callable[[], Tensor],
    update: Callable[[Tensor, Tensor], Tensor],
    found: Callable[[Tensor], Tensor],
) -> None:
    """Compare with two segments of: read what was ``found``, then ``update`` the slots by the text's states."""

    def reference(first_N: Tensor, second_N: Tensor) -> Row:
        before, after = slots_of(first_N), slots_of(second_N)
        states_ND, _ = read_in_front(backbone, compressor, None, 0, first_N)
        slots_KD = update(start_SD()[:before], states_ND)
        states_ND, logits_NV = read_in_front(backbone, compressor, found(slots_KD), len(first_N), second_N)
        again_KD = update(torch.cat([slots_KD, start_SD()[before:]])[:after], states_ND)
        return (
            slots_KD,
            again_KD,
            logits_NV,
            read_in_front(backbone, compressor, found(slots_KD), len(first_N), first_N)[1],
        )

    agree(compressor, backbone, reference)


def test_memformer(backbone: Backbone) -> None:
    """A slot attends to itself and the text; bias and normalisation (2010.06891)."""
    compressor = awake(Memformer(WIDTH, RATIO, slots=4, heads=2, temperature=0.5, read_layer=1))
    size = WIDTH // 2

    def length_one(vector_D: Tensor) -> Tensor:
        return vector_D / vector_D.square().sum().sqrt()

    def update(slots_KD: Tensor, states_ND: Tensor) -> Tensor:
        rows = []
        for slot_D, bias_D in zip(slots_KD, compressor.bias_SD[: len(slots_KD)], strict=True):
            heads = []
            for h in range(2):
                part = slice(h * size, (h + 1) * size)
                query = (compressor.query.weight @ slot_D)[part]
                seen = [slot_D, *states_ND]
                scores = torch.stack([query @ (compressor.key.weight @ s)[part] for s in seen]) / math.sqrt(size)
                weights = (scores / 0.5).softmax(0)
                values = [slot_D[part], *[(compressor.value.weight @ s)[part] for s in states_ND]]
                heads.append(sum(w * v for w, v in zip(weights, values, strict=True)))
            rows.append(length_one(torch.cat(heads) + bias_D))
        return torch.stack(rows)

    external(
        backbone,
        compressor,
        lambda: torch.stack([length_one(b) for b in compressor.bias_SD]),
        update,
        lambda kept: kept,
    )


def test_associative_blocks(backbone: Backbone) -> None:
    """Tokens written one after the other: each erases what it writes over; blocks read apart, weighed together."""
    blocks = awake(AssociativeBlocks(WIDTH, RATIO, slots=4, blocks=2))
    size = WIDTH // 2

    def update(slots_KD: Tensor, states_ND: Tensor) -> Tensor:
        done = []
        for a in range(2):
            part = slice(a * size, (a + 1) * size)
            rows_KC = slots_KD[:, part]
            keep_K, total_K, sum_KC = torch.ones(len(rows_KC)), torch.zeros(len(rows_KC)), torch.zeros_like(rows_KC)
            for state_D in states_ND:
                key_C = (blocks.key.weight @ state_D + blocks.key.bias)[part]
                value_C = (blocks.value.weight @ state_D + blocks.value.bias)[part]
                far = torch.sigmoid(blocks.write.weight[a] @ state_D + blocks.write.bias[a])
                going_K = far * (rows_KC @ key_C / math.sqrt(size)).softmax(0)
                keep_K = keep_K * (1 - going_K)
                total_K, sum_KC = total_K + going_K, sum_KC + going_K[:, None] * value_C
            done.append(keep_K[:, None] * rows_KC + (1 - keep_K)[:, None] * sum_KC / total_K[:, None])
        return torch.cat(done, 1)

    def found(slots_KD: Tensor) -> Tensor:
        rows = []
        for slot_D in slots_KD:
            gate_A = (blocks.gate.weight @ slot_D + blocks.gate.bias).softmax(0)
            read_D = torch.zeros(WIDTH)
            for a in range(2):
                part = slice(a * size, (a + 1) * size)
                query_C = (blocks.query.weight @ slot_D + blocks.query.bias)[part]
                weights_K = (slots_KD[:, part] @ query_C / math.sqrt(size)).softmax(0)
                read_D = read_D + gate_A[a] * (weights_K @ slots_KD[:, part]) @ blocks.lift_ACD[a]
            rows.append(read_D)
        return torch.stack(rows)

    external(backbone, blocks, lambda: blocks.initial_SD, update, found)
