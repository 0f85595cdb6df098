"""A longer memory goes on from the state of the shorter one, and never from one that its records no longer give."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable

import pytest
import torch

from r3mem import Backbone, Memory, MemoryState, R3Mem
from r3mem.compressors import InterleavedTokens, SelectedKeyValues
from r3mem.hierarchy import Flat
from r3mem.memory import folded as folds
from r3mem.memory import side_by_side
from r3mem.memory.layout import PARTS
from tests.tiny_models import SEGMENT, WIDTH


class Counting(SelectedKeyValues):
    """Counts the states that were made."""

    made = 0

    def next_state(self, *args: object, **options: object) -> MemoryState:
        self.made += 1
        return super().next_state(*args, **options)  # type: ignore[arg-type]


@pytest.fixture
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    compressor = Counting(WIDTH, 4, max_slots=12)
    return R3Mem(tiny_backbone(lora_rank=0), compressor, hierarchy=Flat(SEGMENT)).eval()


def ids(segments: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 200, (segments * SEGMENT,), generator=generator).tolist()


def fresh(model: R3Mem, memory: Memory) -> MemoryState:
    """The state made anew of all records."""
    again = copy.deepcopy(memory)
    assert again.folded is None
    return model.state(again)


def same_state(one: MemoryState, other: MemoryState) -> bool:
    return torch.equal(one.slots_BKD, other.slots_BKD) and torch.equal(one.lengths_B, other.lengths_B)


@torch.no_grad()
def test_a_stream_makes_each_state_a_fixed_number_of_times(model: R3Mem) -> None:
    memory = model.retain(ids(2))
    calls = []
    for seed in range(6):
        before = model.compressor.made
        memory = model.retain(ids(1, seed), memory)
        calls.append(model.compressor.made - before)
    # The states after the first two records, then each time the one after the last and the one after the new segment.
    assert calls == [3, 2, 2, 2, 2, 2]
    before = model.compressor.made
    state = model.state(memory)
    assert model.compressor.made == before + 1
    assert same_state(model.state(memory), state) and model.compressor.made == before + 1
    assert same_state(fresh(model, memory), state) and model.compressor.made == before + 1 + 8


@torch.no_grad()
def test_a_state_that_records_no_longer_give_is_made_anew(model: R3Mem) -> None:
    memory = model.retain(ids(4))
    kept = model.state(memory).slots_BKD.clone()
    memory.data_TKD[2] *= 0.5
    assert not torch.equal(model.state(memory).slots_BKD, kept)
    assert same_state(model.state(memory), fresh(model, memory))
    # A state that was changed by who asked for it is not handed out again.
    model.state(memory).slots_BKD.zero_()
    assert same_state(model.state(memory), fresh(model, memory)) and model.state(memory).slots_BKD.abs().sum() > 0
    memory.data_TKD = memory.data_TKD.flip(0)
    assert same_state(model.state(memory), fresh(model, memory))
    memory.lengths_T[-1] = 5
    assert same_state(model.state(memory), fresh(model, memory))


@torch.no_grad()
def test_changed_settings_make_a_state_anew(model: R3Mem) -> None:
    memory = model.retain(ids(5))
    before = model.state(memory)
    model.compressor.max_slots = 8
    assert model.state(memory).slots_BKD.shape[1] == 8 and before.slots_BKD.shape[1] == 12
    model.compressor.decay = 1.0
    assert same_state(model.state(memory), fresh(model, memory))


@torch.no_grad()
def test_parts_and_forks_have_states_of_their_own(model: R3Mem) -> None:
    memory = model.retain(ids(3))
    model.state(memory)
    forks = [model.retain(ids(2, seed), memory) for seed in (1, 2)]
    for one in (*forks, memory.part(-1), memory.part(0, 2), side_by_side([memory.part(1), memory])):
        assert same_state(model.state(one), fresh(model, one))


@torch.no_grad()
def test_few_states_are_kept_and_none_is_stored(model: R3Mem) -> None:
    memories = [model.retain(ids(2, seed)) for seed in range(folds.HELD + 3)]
    for memory in memories:
        model.state(memory)
    assert sum(m.folded is not None and m.folded.made is not None for m in memories) == folds.HELD
    assert all(same_state(model.state(m), fresh(model, m)) for m in memories[:2])
    assert pickle.loads(pickle.dumps(memories[-1])).folded is None
    assert set(memories[-1].tensors()[0]) == PARTS
    held = [m.folded for m in memories]
    del memories, memory
    gc.collect()
    assert sum(one is not None and one.made is not None for one in held) <= folds.HELD


@torch.no_grad()
def test_learned_vectors_that_changed_make_a_state_anew(tiny_backbone: Callable[..., Backbone]) -> None:
    model = R3Mem(tiny_backbone(), InterleavedTokens(WIDTH, 4), hierarchy=Flat(SEGMENT)).eval()
    memory = model.retain(ids(3))
    assert same_state(model.state(memory), fresh(model, memory))
    first = memory.folded
    next(iter(model.compressor.parameters())).add_(1.0)
    model.state(memory)
    assert memory.folded is not first
