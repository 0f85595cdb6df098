"""Signals are noted and answered after a step, together; what started other processes ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_modules.callbacks import SaveOnSignal, SlurmRequeue
from lightning_modules.lost_processes import end_others, tells_of_lost
from r3mem import ConfigError


class Run:
    """A trainer as far as the callback knows one: saves are written down, the other process may have been told."""

    def __init__(self, folder: Path | None, first: bool = True) -> None:
        self.checkpoint_callback = ModelCheckpoint(dirpath=folder) if folder else None
        self.global_step, self.fast_dev_run, self.is_global_zero = 0, False, first
        self.saved: list[str] = []
        self.paths: list[str] = []
        self.other_told = False
        self.strategy = self

    def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
        return decision or self.other_told

    def save_checkpoint(self, path: str, weights_only: bool) -> None:
        self.paths.append(path)
        self.saved.append(Path(path).name)


def steps(callback: SaveOnSignal, run: Any, count: int) -> None:
    module: Any = None
    for _ in range(count):
        run.global_step += 1
        callback.on_train_batch_end(run, module, None, None, 0)


def test_a_signal_is_answered_after_the_step(tmp_path: Path) -> None:
    run: Any = Run(tmp_path)
    callback, before = SaveOnSignal(every_n_steps=2), signal.getsignal(signal.SIGTERM)
    callback.on_train_start(run, None)  # type: ignore[arg-type]
    steps(callback, run, 2)
    os.kill(os.getpid(), signal.SIGTERM)
    assert run.saved == []
    with pytest.raises(SystemExit) as end:
        steps(callback, run, 2)
    assert end.value.code == 143 and run.saved == ["last-step4.ckpt"]
    callback.teardown(run, None, "fit")  # type: ignore[arg-type]
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("folder", [True, False])
def test_a_process_that_was_not_told_ends_with_the_others(tmp_path: Path, folder: bool) -> None:
    run: Any = Run(tmp_path if folder else None, first=False)
    callback = SaveOnSignal()
    callback.on_train_start(run, None)  # type: ignore[arg-type]
    try:
        steps(callback, run, 3)
        run.other_told = True
        with pytest.raises(SystemExit) as end:
            steps(callback, run, 1)
    finally:
        callback.teardown(run, None, "fit")  # type: ignore[arg-type]
    # The one that started it would kill all if it saw another code.
    assert end.value.code == 0 and run.saved == (["last-step4.ckpt"] if folder else [])


def test_a_place_that_is_no_local_folder_stays_one(tmp_path: Path) -> None:
    run: Any = Run(tmp_path)
    run.checkpoint_callback.dirpath = "memory://runs"
    run.global_step = 3
    with pytest.raises(SystemExit):
        SaveOnSignal().answer(run)
    assert run.paths == ["memory://runs/last-step3.ckpt"]


def test_validation_before_training_notes_the_signal_and_prediction_ends(tmp_path: Path) -> None:
    run: Any = Run(tmp_path)
    callback, before = SaveOnSignal(), signal.getsignal(signal.SIGTERM)
    try:
        callback.on_sanity_check_start(run, None)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGTERM)
        callback.on_train_start(run, None)  # type: ignore[arg-type]
        with pytest.raises(SystemExit):
            steps(callback, run, 1)
        assert run.saved == ["last-step1.ckpt"]
        callback.on_predict_start(run, None)  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("kind", [SaveOnSignal, SlurmRequeue])
@pytest.mark.parametrize("wrong", [{"signal_name": "SIGNONE"}, {"every_n_steps": 0}])
def test_impossible_settings_are_refused(kind: type[SaveOnSignal], wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"give one such as SIGUSR1|ask at least every step"):
        kind(**wrong)


def test_processes_may_tell_why_they_end_and_are_killed_if_they_do_not() -> None:
    procs = [subprocess.Popen(["sleep", "0.2"]), subprocess.Popen(["sleep", "60"])]
    run: Any = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[*procs])))
    began = time.monotonic()
    end_others(run, seconds=1.0)
    assert [process.returncode for process in procs] == [0, -signal.SIGKILL] and time.monotonic() - began < 30
    end_others(SimpleNamespace(strategy=SimpleNamespace(launcher=None)))  # type: ignore[arg-type]


def test_what_tells_of_a_lost_process() -> None:
    assert tells_of_lost(RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"))
    assert tells_of_lost(RuntimeError("[unbound_buffer.cc:81] Timed out waiting 20000ms for recv operation"))
    assert not tells_of_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
