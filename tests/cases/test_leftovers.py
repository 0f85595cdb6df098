"""Folders to write in: those of killed writers go with the next write, those of living ones stay."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from datamodules import atomic_folder
from lightning_modules.whole_checkpoints import WholeCheckpoints
from r3mem import Backbone, InputError, Memory
from r3mem.plain_data import scratch_folder
from r3mem.plain_data.scratch_folder import ABANDONED_SECONDS, scratch_beside
from r3mem.plain_data.whole_file import replacing
from tests.tiny_models import same_memory, tiny_r3mem

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")


def memory(value: int) -> Memory:
    return Memory(
        torch.full((1, 4, 8), float(value)), torch.ones(1, 4), torch.ones(1, 4), "float32", 4, torch.tensor([16]), 4,
        [b""], [value], {"stack": "a"}, [0],
    )  # fmt: skip


@contextmanager
def writing(
    path: Path, begun: Callable[[Path], None] = lambda scratch: None
) -> Iterator[tuple[int, Callable[[], None]]]:
    """Another process that is in the middle of writing a file; gives its id, and what lets it go on to its end."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            with replacing(path) as written:
                written.write_text("from the other process")
                begun(written.parent)
                os.write(ready[1], b"x")
                os.close(go[1])
                os.read(go[0], 1)
            code = 0
        finally:
            os._exit(code)
    os.close(go[0])
    os.read(ready[0], 1)
    alive = True

    def finish() -> None:
        nonlocal alive
        alive = False
        os.write(go[1], b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "its folder was taken from under it"

    try:
        yield child, finish
    finally:
        if alive:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for end in (*ready, go[1]):
            os.close(end)


def scratches(folder: Path) -> list[Path]:
    return [path for area in folder.glob(f"{scratch_folder.AREA}*") for path in area.iterdir() if path.is_dir()]


def test_a_living_writer_is_left_alone_and_a_dead_one_is_not(tmp_path: Path) -> None:
    with writing(tmp_path / "slow") as (_, finish), writing(tmp_path / "dead") as (dead, _):
        assert len(scratches(tmp_path)) == 2
        os.kill(dead, signal.SIGKILL)
        os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
        memory(1).save(tmp_path / "another")
        assert len(scratches(tmp_path)) == 1, "that of the living one"
        # Two write the same file at once: each is whole, and the last one stays.
        memory(2).save(tmp_path / "slow")
        assert same_memory(Memory.load(tmp_path / "slow"), memory(2))
        finish()
    assert (tmp_path / "slow").read_text() == "from the other process"
    assert sorted(os.listdir(tmp_path)) == ["another", "slow"]


@pytest.mark.parametrize("writer", ["memory", "model", "checkpoint", "cache"])
def test_every_writer_clears_what_a_killed_one_left(
    writer: str, tmp_path: Path, tiny_backbone: Callable[..., Backbone]
) -> None:
    with writing(tmp_path / "dead") as (dead, _):
        os.kill(dead, signal.SIGKILL)
        os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
        assert len(scratches(tmp_path)) == 1
        if writer == "memory":
            memory(1).save(tmp_path / "new")
        elif writer == "model":
            tiny_r3mem(tiny_backbone()).save_pretrained(tmp_path / "new")
        elif writer == "checkpoint":
            WholeCheckpoints().save_checkpoint({"global_step": 1}, tmp_path / "new")
        else:
            atomic_folder.make(tmp_path / "new", lambda made: (made / "meta.json").write_text("{}") and None)
        assert os.listdir(tmp_path) == ["new"]


def test_where_locks_tell_nothing_only_age_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On network disks without locks, and for writers on other machines."""
    with writing(tmp_path / "dead") as (dead, _):
        os.kill(dead, signal.SIGKILL)
        os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)
    (left,) = scratches(tmp_path)
    for name, value in (("fcntl", None), ("_host", lambda: "another")):
        with monkeypatch.context() as patch:
            patch.setattr(scratch_folder, name, value)
            memory(1).save(tmp_path / "new")
            assert scratches(tmp_path) == [left]
    long_ago = time.time() - ABANDONED_SECONDS - 60
    monkeypatch.setattr(scratch_folder, "_host", lambda: "another")
    for path in (left.with_name(left.name + ".lock"), left):
        os.utime(path, (long_ago, long_ago))
    memory(1).save(tmp_path / "new")
    assert scratches(tmp_path) == [left], "what is written in it has changed today"
    os.utime(left / "written", (long_ago, long_ago))
    memory(1).save(tmp_path / "new")
    assert os.listdir(tmp_path) == ["new"]


def test_many_processes_write_into_one_folder_while_some_are_killed(tmp_path: Path) -> None:
    children = []
    for number in range(6):
        child = os.fork()
        if not child:
            code = 1
            try:
                for value in range(40 if number < 4 else 1 << 20):
                    memory(value).save(tmp_path / ("same" if number % 2 else f"own-{number}"))
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    time.sleep(0.3)
    for child in children[4:]:
        os.kill(child, signal.SIGKILL)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0, 0, 0, -signal.SIGKILL, -signal.SIGKILL]
    memory(39).save(tmp_path / "own-0")
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    for name in ("own-0", "own-2"):
        assert same_memory(Memory.load(tmp_path / name), memory(39))
    assert Memory.load(tmp_path / "same").digests[0] >= 0


def test_a_hidden_folder_of_the_users_is_never_touched(tmp_path: Path) -> None:
    for name in (".new-settings", ".new", f"{scratch_folder.AREA}-notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("kept")
    memory(1).save(tmp_path / "new")
    with pytest.raises(InputError), replacing(tmp_path / "new"):
        raise OSError("the disk refuses")
    assert all((tmp_path / name / "mine").read_text() == "kept" for name in os.listdir(tmp_path) if name != "new")
    assert len(os.listdir(tmp_path)) == 4


def test_it_is_removed_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), scratch_beside(tmp_path / "new") as scratch:
        (scratch / "half").touch()
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
