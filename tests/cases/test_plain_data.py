"""Memories are told in a line, compared by what they hold, and three documents fill three splits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from datamodules.corpus import Corpus
from datamodules.documents import DocumentsDataModule
from r3mem import Backbone, Memory, MemoryState, R3Mem, Segments, TreeMemory
from r3mem.compressors.base import Written
from tests.tiny_models import TEXT, tiny_r3mem


@pytest.fixture(scope="module")
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    return tiny_r3mem(tiny_backbone())


def test_a_memory_is_told_in_a_line(model: R3Mem) -> None:
    memory = model.retain(TEXT * 14)
    tokens = len(TEXT.encode()) * 14
    assert repr(memory) == (
        f"Memory({tokens:,} tokens in {memory.n_slots:,} virtual tokens, {len(memory.digests):,} segments, ratio 4, "
        f"float16, {memory.nbytes:,} bytes)"
    )
    tree = model.retain_tree(TEXT * 14)
    assert repr(tree).startswith(f"TreeMemory('', {len(tree.nodes):,} nodes in 1 levels, {tokens:,} tokens in ")
    state = MemoryState(torch.zeros(2, 3, 32), torch.tensor([9, 12]), 4)
    assert repr(state) == "MemoryState(slots_BKD=<2 x 3 x 32, float32>, lengths_B=<2, int64>, ratio=4, segment_BK=None)"
    assert all(len(repr(data)) < 300 for data in (memory, tree, state, Segments.pad([list(range(1000))])))


def test_memories_are_equal_by_what_they_hold(model: R3Mem, tmp_path: Path) -> None:
    memory, other = model.retain(TEXT), model.retain(TEXT + "!")
    memory.save(tmp_path / "memory.safetensors")
    again = Memory.load(tmp_path / "memory.safetensors")
    assert memory == memory and memory == again and hash(memory) == hash(again) and again is not memory
    assert memory != other and memory != TEXT and memory in [other, again] and len({memory, again, other}) == 2
    changed = replace(memory, data_TKD=memory.data_TKD.clone())
    assert changed == memory
    changed.data_TKD[0, 0, 0] = 1 + changed.data_TKD[0, 0, 0] / 2
    assert changed != memory
    for name, value in (("ratio", 5), ("precision", "int8"), ("digests", [1]), ("corrections", [b"x"])):
        assert replace(memory, **{name: value}) != memory
    assert replace(memory, fingerprint={}) != memory


def test_trees_and_states_too(model: R3Mem, tmp_path: Path) -> None:
    tree, other = model.retain_tree(TEXT), model.retain_tree(TEXT + "!")
    tree.save(tmp_path / "tree.safetensors")
    again = TreeMemory.load(tmp_path / "tree.safetensors")
    assert tree == again and hash(tree) == hash(again) and tree != other and tree != replace(tree, title="x")
    kinds: list[Callable[[torch.Tensor], Any]] = [
        lambda t: MemoryState(t, torch.tensor([4]), 4),
        lambda t: Written(t, None),
    ]
    for make in kinds:
        one, same = make(torch.ones(1, 2, 3)), make(torch.ones(1, 2, 3))
        assert one == same and hash(one) == hash(same) and one != make(torch.zeros(1, 2, 3))
        assert one != make(torch.ones(1, 2, 4)) and one != make(torch.ones(1, 2, 3, dtype=torch.float64))
    text, same = Segments.pad([[1, 2, 3]]), Segments.pad([[1, 2, 3]])
    assert text == same and hash(text) == hash(same)
    assert text != Segments.pad([[1, 2, 4]]) and text != Segments.pad([[1, 2, 3, 0]])


class Stores:
    """A store of some documents, by the place of their hashes between 0 and 1."""

    def __init__(self, *places: float) -> None:
        self.digests = np.array([int(place * 2**64) for place in places], np.uint64)


@pytest.mark.parametrize(
    "places, fractions, wanted",
    [
        ((0.9, 0.5, 0.6), (0.05, 0.05), ([0], [2], [1])),
        ((0.9, 0.5, 0.07), (0.05, 0.05), ([0], [1], [2])),
        ((0.01, 0.02, 0.03), (0.05, 0.05), ([2], [1], [0])),
        ((0.9, 0.5), (0.05, 0.05), ([0], [], [1])),
        ((0.9,), (0.05, 0.05), ([0], [], [])),
        ((0.01,), (0.05, 0.05), ([0], [], [])),
        ((0.9, 0.5, 0.6), (0.0, 0.0), ([0, 1, 2], [], [])),
        ((0.9, 0.5, 0.6), (0.05, 0.0), ([0, 2], [1], [])),
        ((0.5, 0.5, 0.5), (0.05, 0.05), ([0, 1, 2], [], [])),
        ((0.9, 0.5, 0.5, 0.7), (0.05, 0.05), ([0], [3], [1, 2])),
        # None is empty: the hash alone decides.
        ((0.01, 0.02, 0.06, 0.5), (0.05, 0.05), ([3], [2], [0, 1])),
    ],
)
def test_few_documents_fill_the_splits(
    places: tuple[float, ...], fractions: tuple[float, float], wanted: tuple[list[int], ...]
) -> None:
    corpus: Corpus[Any] = Corpus([Stores(*places)])  # type: ignore[list-item]
    assert [part.selection.tolist() for part in corpus.split(*fractions)] == list(wanted)


def test_three_files_can_be_trained_on_and_tested(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"The text of {name}.\n" * 5)
    data = DocumentsDataModule(str(tmp_path), tokenizer=byte_tokenizer, cache_dir=str(tmp_path / "cache"), batch_size=1)
    data.setup()
    assert [len(data.documents(split)) for split in ("train", "validation", "test")] == [1, 1, 1]
    assert len(data.test_dataloader()) and len(data.train_dataloader())
