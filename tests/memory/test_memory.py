"""Memories on disk: whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from r3mem import Backbone, FingerprintError, InputError, Memory, MemoryState, R3Mem, Segments
from r3mem.plain_data.tensor_file import write_whole
from tests.tiny_models import TEXT, same_memory, tiny_r3mem

# Of this model's random weights some words need corrections in every precision.
SEED = 1


@pytest.fixture(scope="module")
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    return tiny_r3mem(tiny_backbone(seed=SEED), share=0.125)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_saved_and_loaded(model: R3Mem, tmp_path: Path, precision: str) -> None:
    memory = model.retain(TEXT, precision=precision)
    assert any(memory.corrections), "without corrections this test would not see them lost"
    memory.save(tmp_path / "new folder" / "text.safetensors")
    loaded = Memory.load(tmp_path / "new folder" / "text.safetensors")
    assert same_memory(loaded, memory) and model.recall(loaded) == TEXT
    assert os.listdir(tmp_path / "new folder") == ["text.safetensors"]


def test_file_gets_the_usual_permissions(model: R3Mem, tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    model.retain(TEXT).save(tmp_path / "memory")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "memory")}
    assert len(modes) == 1


def test_interrupted_write_leaves_the_old_file(model: R3Mem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text.safetensors"
    model.retain(TEXT).save(path)
    before = path.read_bytes()

    def interrupted(_: Any, file: str | Path, **__: Any) -> None:
        Path(file).write_bytes(b"half of")
        raise KeyboardInterrupt

    monkeypatch.setattr("r3mem.plain_data.tensor_file.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.retain("another").save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_files_that_are_no_whole_memory(model: R3Mem, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    model.retain(TEXT).save(path)
    whole = path.read_bytes()
    for kept in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match="truncated"):
            Memory.load(path)
    save_file({"data": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="not a memory"):
        Memory.load(path)
    with pytest.raises(InputError, match="no such file"):
        Memory.load(tmp_path / "nothing")


def test_file_without_one_of_its_parts(model: R3Mem, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    model.retain(TEXT).save(path)
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors.pop("digests")
    write_whole(tensors, about, path)
    with pytest.raises(InputError, match="digests"):
        Memory.load(path)


def test_other_format_version(model: R3Mem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("r3mem.memory.memory.FORMAT", 99)
    model.retain(TEXT).save(tmp_path / "memory")
    monkeypatch.undo()
    with pytest.raises(FingerprintError, match=r"format 99, this version reads format 1.*retain the text again"):
        Memory.load(tmp_path / "memory")


def test_join_of_nothing() -> None:
    with pytest.raises(InputError, match="no memories"):
        Memory.join([])


def test_segments_and_states() -> None:
    text = Segments.pad([[1, 2, 3], [], [4]])
    assert text.ids_BN.tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
    assert text.mask_BN.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    with pytest.raises(InputError, match="at least one list"):
        Segments.pad([])
    state = MemoryState(torch.ones(3, 2, 4, requires_grad=True) * 2, torch.tensor([3, 0, 2]), ratio=2)
    assert state.mask_BK.tolist() == [[True, True], [False, False], [True, False]]
    forgotten = state.forget(torch.tensor([True, False, False]))
    assert forgotten.lengths_B.tolist() == [0, 0, 2]
    assert (forgotten.slots_BKD[0] == 0).all() and torch.equal(forgotten.slots_BKD[1:], state.slots_BKD[1:])
    assert state.slots_BKD.requires_grad and not state.detach().slots_BKD.requires_grad
    assert state.rows(torch.tensor([2, 0])).lengths_B.tolist() == [2, 3]
