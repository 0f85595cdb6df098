"""Writes that fail for real: the process is killed in the middle, the disk is full. What was there stays whole."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from r3mem import Backbone, InputError, Memory
from r3mem.memory.tree_memory import TreeMemory, TreeNode
from tests.full_disk import full_disk
from tests.tiny_models import same_memory, tiny_r3mem

Kept = Memory | TreeMemory
TRIES, WANTED = 40, 6


def plain(value: int, slots: int) -> Memory:
    """A memory of one record, the same number everywhere."""
    return Memory(
        torch.full((1, slots, 64), float(value)), torch.full((1, slots), float(value)), torch.ones(1, slots), "float32",
        32, torch.tensor([4 * slots]), 4, [bytes([value])], [value], {"stack": "a"}, [value],
    )  # fmt: skip


def tree(value: int, slots: int) -> TreeMemory:
    """Two levels of such memories."""
    tokens = 4 * slots
    nodes = [TreeNode(0, tokens, 0, None, 0), TreeNode(0, tokens, 1, 0, 0)]
    return TreeMemory(nodes, [plain(value, slots), plain(value + 1, slots)], f"title {value}")


def same(first: Kept, second: Kept) -> bool:
    if isinstance(first, Memory) and isinstance(second, Memory):
        return same_memory(first, second)
    assert isinstance(first, TreeMemory) and isinstance(second, TreeMemory)
    levels = zip(first.levels, second.levels, strict=True)
    return (first.nodes, first.title) == (second.nodes, second.title) and all(same_memory(a, b) for a, b in levels)


def kill_while_saving(memories: list[Kept], path: Path, seconds: float) -> None:
    """Save the memories in turn, over one another, in a process that is killed after a time."""
    child = os.fork()
    if not child:
        try:
            while True:
                for memory in memories:
                    memory.save(path)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "saving failed before it was killed"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
@pytest.mark.parametrize("make", [plain, tree])
def test_a_killed_save_leaves_the_old_file_or_the_new_one(make: Callable[[int, int], Kept], tmp_path: Path) -> None:
    memories = [make(1, 1 << 14), make(2, 3 << 13)]
    path = tmp_path / "00000000-0000000000000001.safetensors"
    memories[0].save(path)
    draw, cut = random.Random(0), 0
    for _ in range(TRIES):
        kill_while_saving(memories, path, draw.uniform(0.0, 0.15))
        loaded = type(memories[0]).load(path)
        assert sum(same(loaded, memory) for memory in memories) == 1
        # What a killed save leaves is hidden, and no name in it is that of a memory.
        assert list(tmp_path.rglob("*.safetensors")) == [path]
        left = [name for name in os.listdir(tmp_path) if name != path.name]
        assert all(name.startswith(".") for name in left)
        written = list(tmp_path.rglob("written"))
        assert len(written) <= 1, "what an earlier kill left is removed by the next write"
        cut += len(written)
        if cut == WANTED:
            break
    assert cut == WANTED, "saving was not killed in the middle often enough for this test to mean anything"
    memories[1].save(path)
    assert os.listdir(tmp_path) == [path.name]
    assert same(type(memories[1]).load(path), memories[1])


@pytest.mark.parametrize("make", [plain, tree])
@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_is_told_and_leaves_what_was_there(
    make: Callable[[int, int], Kept], there: bool, tmp_path: Path
) -> None:
    path = tmp_path / "kept.safetensors"
    if there:
        make(1, 8).save(path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    large = make(2, 1 << 12)
    with full_disk(), pytest.raises(InputError, match=r"kept\.safetensors cannot be written .*free some space"):
        large.save(path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before
    large.save(path)
    assert same(type(large).load(path), large) and os.listdir(tmp_path) == [path.name]


def test_a_model_on_a_full_disk(tiny_backbone: Callable[..., Backbone], tmp_path: Path) -> None:
    model = tiny_r3mem(tiny_backbone())
    model.save_pretrained(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    for _, parameter in model.backbone.adapter_parameters():
        torch.nn.init.ones_(parameter)
    with full_disk(1 << 10), pytest.raises(InputError, match=r"model cannot be written .*free some space"):
        model.save_pretrained(tmp_path / "model")
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"kept\.safetensors cannot be written .*write to another folder"):
        plain(1, 8).save(tmp_path / "file" / "kept.safetensors")
