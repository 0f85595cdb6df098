"""A checkpoint is the old one or the new one, whatever happens while it is written; damage is told, not loaded."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector

from lightning_modules.whole_checkpoints import TRAINING_STATE, WholeCheckpoints, check_whole, step_of
from r3mem import InputError
from tests.full_disk import full_disk

TRIES, WANTED = 40, 4


def checkpoint(step: int, size: int = 1 << 10) -> dict[str, Any]:
    """What training goes on from, the same number everywhere."""
    return {name: {} for name in TRAINING_STATE} | {
        "global_step": step,
        "state_dict": {"weight": torch.full((size,), float(step))},
    }


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step3.ckpt"
    WholeCheckpoints().save_checkpoint(checkpoint(3), path)
    loaded = WholeCheckpoints().load_checkpoint(path)
    assert loaded["global_step"] == step_of(path) == 3
    assert torch.equal(loaded["state_dict"]["weight"], torch.full((1 << 10,), 3.0))
    assert os.listdir(path.parent) == ["step3.ckpt"]
    WholeCheckpoints().remove_checkpoint(path)
    assert not path.exists()


def test_a_full_disk_is_told_with_what_is_still_there(tmp_path: Path) -> None:
    io, path = WholeCheckpoints(), tmp_path / "last.ckpt"
    with full_disk(1 << 10), pytest.raises(InputError, match=r"last\.ckpt cannot be written .*no checkpoint is there"):
        io.save_checkpoint(checkpoint(1), path)
    assert os.listdir(tmp_path) == []
    for step in (1, 2):
        io.save_checkpoint(checkpoint(step), tmp_path / f"step{step}.ckpt")
    io.save_checkpoint(checkpoint(2), path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    says = r"last\.ckpt cannot be written .*free some space.*still there: last\.ckpt, step1\.ckpt, step2\.ckpt;"
    with full_disk(1 << 10), pytest.raises(InputError, match=says):
        io.save_checkpoint(checkpoint(3), path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_a_killed_save_leaves_the_old_checkpoint_or_the_new_one(tmp_path: Path) -> None:
    """Under the name that Lightning numbers: what is left over must not be taken for a later number."""
    io, path, size = WholeCheckpoints(), tmp_path / "hpc_ckpt_1.ckpt", 1 << 20
    io.save_checkpoint(checkpoint(1, size), path)
    draw, cut = random.Random(0), 0
    for _ in range(TRIES):
        child = os.fork()
        if not child:
            try:
                for step in range(2, 1 << 20):
                    io.save_checkpoint(checkpoint(step, size), path)
            finally:
                os._exit(1)
        time.sleep(draw.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "saving failed before it was killed"
        step = step_of(path)
        assert torch.equal(io.load_checkpoint(path)["state_dict"]["weight"], torch.full((size,), float(step)))
        assert list(tmp_path.rglob("*.ckpt")) == [path]
        assert _CheckpointConnector.hpc_save_path(tmp_path) == str(tmp_path / "hpc_ckpt_2.ckpt")
        cut += any(tmp_path.rglob("written"))
        if cut == WANTED:
            break
    assert cut == WANTED, "saving was not killed in the middle often enough for this test to mean anything"
    io.save_checkpoint(checkpoint(7), path)
    assert os.listdir(tmp_path) == [path.name] and step_of(path) == 7


def damage(path: Path, how: str) -> None:
    written = path.read_bytes()
    middle = len(written) // 2
    changed = {
        "cut": written[:middle],
        "cut by a byte": written[:-1],
        "empty": b"",
        "another byte": written[:middle] + bytes([written[middle] ^ 1]) + written[middle + 1 :],
        "zeros": written[:middle] + bytes(middle // 2) + written[middle + middle // 2 :],
    }
    path.write_bytes(changed[how])


@pytest.mark.parametrize("how", ["cut", "cut by a byte", "empty", "another byte", "zeros"])
def test_damage_is_told_and_what_to_do(tmp_path: Path, how: str) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint(checkpoint(3), path)
    check_whole(path)
    damage(path, how)
    for read in (check_whole, step_of, WholeCheckpoints().load_checkpoint):
        with pytest.raises(InputError, match=r"last\.ckpt is (not whole|damaged).*--ckpt_path latest"):
            read(path)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.ckpt"
    weights = {name: value for name, value in checkpoint(3).items() if name in ("state_dict", "global_step")}
    WholeCheckpoints().save_checkpoint(weights, path)
    with pytest.raises(InputError, match="lacks loops, optimizer_states, lr_schedulers: take one that"):
        step_of(path)
    assert step_of(path, ("state_dict",)) == 3
    WholeCheckpoints().save_checkpoint({"where": Path("/")}, path)
    with pytest.raises(InputError, match=r"cannot be read \(.*Weights only"):
        step_of(path)
