"""The shared tests of compressors, for ``AccumulatingSummaries``, and how a state follows from the one before.

Shape legend: B batch, K virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import torch

from r3mem import Backbone, ConfigError, Memory, MemoryState, R3Mem, Segments
from r3mem.compressors import AccumulatingSummaries
from r3mem.hierarchy import Flat
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.battery.compressor import CompressorBattery, random_text
from tests.tiny_models import RATIO, SEGMENT, WIDTH, awaken_adapters, same_memory

# Slots that are put side by side need no language model.
BACKBONE = cast(Backbone, None)


class TestAccumulatingSummaries(CompressorBattery):
    build = staticmethod(partial(AccumulatingSummaries, WIDTH))


def written(*rows: list[int]) -> MemoryState:
    """A segment's memory at ratio 4 whose slots hold the numbers given, all dimensions alike."""
    slots_BKD = torch.full((len(rows), 3, WIDTH), 99.0)
    for b, row in enumerate(rows):
        slots_BKD[b, : len(row)] = torch.tensor(row, dtype=torch.float32)[:, None]
    return MemoryState(slots_BKD, torch.tensor([max(0, 4 * len(row) - 1) for row in rows]), 4)


def numbers(state: MemoryState) -> list[list[int]]:
    assert (state.slots_BKD[~state.mask_BK] == 0).all() and (state.slots_BKD == state.slots_BKD[..., :1]).all()
    return [state.slots_BKD[b, mask_K, 0].int().tolist() for b, mask_K in enumerate(state.mask_BK)]


def test_states_accumulate_in_order_and_the_oldest_slots_are_dropped() -> None:
    compressor = AccumulatingSummaries(WIDTH, 4, max_slots=5)
    state = compressor.next_state(BACKBONE, None, written([1, 2], [10], []))
    assert numbers(state) == [[1, 2], [10], []]
    # A row that was empty begins, a row whose segment is empty stays.
    state = compressor.next_state(BACKBONE, state, written([3], [], [20, 21, 22]))
    assert numbers(state) == [[1, 2, 3], [10], [20, 21, 22]]
    assert state.segment_BK is not None
    assert [n[:k] for n, k in zip(state.segment_BK.tolist(), state.mask_BK.sum(1), strict=True)] == [
        [0, 0, 1], [0], [0, 0, 0]
    ]  # fmt: skip
    # A row that begins a new document holds nothing of the old one.
    state = compressor.next_state(
        BACKBONE, state.forget(torch.tensor([False, True, False])), written([4, 5, 6], [11, 12], [23])
    )
    assert state.segment_BK is not None and state.segment_BK[1, :2].tolist() == [0, 0]
    assert numbers(state) == [[2, 3, 4, 5, 6], [11, 12], [20, 21, 22, 23]]
    assert state.lengths_B.tolist() == [20, 8, 16] and state.slots_BKD.shape[1] == 5
    one = AccumulatingSummaries(WIDTH, 4, max_slots=1)
    assert numbers(one.next_state(BACKBONE, None, written([1, 2, 3], [7], []))) == [[3], [7], []]
    assert numbers(one.next_state(BACKBONE, None, written([], []))) == [[], []]


def test_gradients_reach_every_segment_s_slots_until_they_are_detached() -> None:
    compressor, first, second = AccumulatingSummaries(WIDTH, 4), written([1, 2]), written([3])
    for cut in (False, True):
        first.slots_BKD.requires_grad_().grad = None
        second.slots_BKD.requires_grad_().grad = None
        before = compressor.next_state(BACKBONE, None, first)
        state = compressor.next_state(BACKBONE, before.detach() if cut else before, second)
        state.slots_BKD.sum().backward()
        assert second.slots_BKD.grad[0, :, 0].tolist() == [1, 0, 0]
        assert cut == (first.slots_BKD.grad is None)
    assert compressor.next_state(BACKBONE, None, first).slots_BKD.shape == (1, 2, WIDTH)


@pytest.fixture
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    backbone = tiny_backbone()
    awaken_adapters(backbone)
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
    return R3Mem(backbone, AccumulatingSummaries(WIDTH, RATIO, max_slots=10), stack, Flat(SEGMENT)).eval()


@torch.no_grad()
def test_the_next_segment_reads_all_before_it_in_order(model: R3Mem) -> None:
    texts = [random_text([n], seed=n) for n in (8, 6, 9)]
    state, parts = None, []
    for text in texts[:2]:
        step = model.step(text, state, logits=False)
        parts.append(step.state)
        state = model.compressor.next_state(model.backbone, state, step.state)
    read = model.step(texts[2], state)
    together = MemoryState(torch.cat([p.slots_BKD for p in parts], 1), torch.tensor([16]), RATIO)
    torch.testing.assert_close(read.logits_BNV, model.likelihood(texts[2], together), atol=1e-5, rtol=1e-5)
    swapped = MemoryState(torch.cat([p.slots_BKD for p in parts[::-1]], 1), torch.tensor([16]), RATIO)
    assert not torch.allclose(read.logits_BNV, model.likelihood(texts[2], swapped), atol=1e-2)


@torch.no_grad()
def test_a_text_goes_on_from_its_records_as_in_one_go(model: R3Mem) -> None:
    """Five segments of four slots: two and a half of them are what a state holds."""
    ids = torch.randint(0, 200, (5 * SEGMENT,), generator=torch.Generator().manual_seed(0)).tolist()
    whole = model.retain(ids)
    part: Memory | None = None
    for start in range(0, len(ids), SEGMENT):
        part = model.retain(ids[start : start + SEGMENT], part)
    assert same_memory(whole, part) and model.recall_ids(whole) == ids
    state = model.state(whole)
    assert state.lengths_B.tolist() == [10 * RATIO]
    assert torch.equal(state.slots_BKD[0], model.state(whole, "records").slots_BKD[0, -10:])
    alone = model.retain(ids[-SEGMENT:]).data_TKD[-1]
    assert not torch.allclose(alone.float(), whole.data_TKD[-1].float(), atol=1e-2)


def test_what_cannot_be(model: R3Mem) -> None:
    with pytest.raises(ConfigError, match="reads more than the last record"):
        model.retain([1, 2, 3], records="last")
    with pytest.raises(ConfigError, match="at least 1 slot"):
        AccumulatingSummaries(WIDTH, max_slots=0)


@torch.no_grad()
def test_the_vectors_start_as_the_end_of_a_text(model: R3Mem) -> None:
    compressor, backbone, text = model.compressor, model.backbone, Segments.pad([[1, 2, 3]])
    assert compressor.calibrate(backbone, text, lambda slots_BKD: slots_BKD) == 1.0
    end_D = backbone.embedding_VD[backbone.tokenizer.eos_token_id]
    assert all(torch.equal(vector_D, end_D) for vector_D in compressor.initial_SD)
    backbone.tokenizer = type("Endless", (), {"eos_token_id": None})()
    torch.nn.init.normal_(compressor.initial_SD)
    compressor.calibrate(backbone, text, lambda slots_BKD: slots_BKD)
    assert float(compressor.initial_SD.std()) == pytest.approx(float(backbone.embedding_VD.std()), rel=1e-4)
