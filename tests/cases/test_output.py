"""What a run prints is worth reading: its phases, how far it is, and nothing else."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules.callbacks import ProgressLines, StepBar
from lightning_modules.cli import main
from lightning_modules.phases import Phases, clock
from r3mem.backbone import source as backbone_source

pytestmark = pytest.mark.filterwarnings("ignore")
NOISE = ("Epoch 0", "/-2", "FLOPs", "dirpath has changed", "Loading weights", "it/s", "TPU", "v_num", "litlogger")


def test_a_run_into_a_file_tells_its_phases_and_its_progress(
    arguments: Callable[..., list[str]],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    backbone_folder: Path,
) -> None:
    given = [a for a in arguments("fit", "run", "--trainer.max_steps=3") if "progress_bar" not in a]
    main([a for a in given if "model_summary" not in a])
    out, err = capfd.readouterr()
    # Lightning's lines go to the handler of another test's standard error.
    said = out + err + caplog.text
    assert not [noise for noise in NOISE if noise in said] and out == ""
    lines = err.splitlines()
    for phase in ("reading the settings", f"loading the backbone {backbone_folder}", "reading the data"):
        assert lines.count(phase) == 1
    first, last = (line for line in lines if line.startswith("step "))
    number = r"\d+(\.\d+)?(e[+-]\d+)?"
    for line, step, end in ((first, 1, r"\d+:\d\d left"), (last, 3, r"took \d+:\d\d")):
        assert re.fullmatch(rf"step {step} of 3, forward {number}, loss {number}, {number} steps/s, {end}", line), line
    assert re.search(
        r"training 7\.74 K of 47\.5 K parameters from step 0 of 3; checkpoints in .*/run/checkpoints", said
    )


@pytest.mark.parametrize(
    "command, word, phase",
    [("validate", "validation", "validating"), ("test", "test", "testing"), ("predict", "prediction", "predicting")],
)
def test_other_commands_tell_batches(
    arguments: Callable[..., list[str]],
    fitted: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    command: str,
    word: str,
    phase: str,
) -> None:
    last = f"--ckpt_path={fitted / 'checkpoints' / 'last.ckpt'}"
    capfd.readouterr()
    caplog.clear()
    main([a for a in arguments(command, "other", last) if "progress_bar" not in a])
    out, err = capfd.readouterr()
    assert not [noise for noise in NOISE if noise in out + err + caplog.text]
    lines = err.splitlines()
    told = [line for line in lines if line.startswith(f"{word}: batch ")]
    assert lines.index("reading the data") < lines.index(phase) < lines.index(told[0]) and lines.count(phase) == 1
    (total,) = {int(re.search(r" of (\d+)", line)[1]) for line in told}  # type: ignore[index]
    assert told[0].startswith(f"{word}: batch 1 of {total}, ") and told[-1].startswith(
        f"{word}: batch {total} of {total}"
    )
    assert "batches/s" in told[-1] and "took" in told[-1]


def test_a_quiet_run_stays_quiet(arguments: Callable[..., list[str]], capfd: pytest.CaptureFixture[str]) -> None:
    main(arguments("fit", "run", "--trainer.max_steps=2"))
    assert "step 1" not in capfd.readouterr().err


def test_a_long_phase_gives_a_sign_of_life() -> None:
    stream = io.StringIO()
    phases = Phases(silence=0.2, stream=stream)
    phases.tell("not begun")
    phases.begin()
    try:
        phases.tell("reading a large file")
        time.sleep(0.7)
        phases.going_on(lambda: "finished step 3")
        time.sleep(0.5)
        phases.going_on(None)
        told = stream.getvalue()
        time.sleep(0.5)
    finally:
        phases.end()
    lines = told.splitlines()
    assert lines[0] == "reading a large file" and lines[1] == "still reading a large file, 0:00"
    assert lines[-1] == "finished step 3" and stream.getvalue() == told and len(lines) < 9


def test_only_the_first_process_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setenv("LOCAL_RANK", "1")
    Phases(stream=stream).write("a line")
    assert stream.getvalue() == ""
    monkeypatch.setenv("LOCAL_RANK", "0")
    Phases(stream=stream).write("a line")
    assert stream.getvalue() == "a line\n"


def test_lines_come_after_some_seconds_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, stream = [100.0], io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    lines = ProgressLines(seconds=10.0, phases=Phases(stream=stream))
    metrics = {"train/loss": 2.5, "v_num": 3}
    trainer: Any = SimpleNamespace(
        global_step=20, estimated_stepping_batches=100, progress_bar_metrics=metrics, loggers=[]
    )
    module: Any = None
    lines.on_train_start(trainer, module)
    for _ in range(80):
        now[0] += 4.0
        trainer.global_step += 1
        lines.on_train_batch_end(trainer, module, None, None, 0)
    told = stream.getvalue().splitlines()
    # Every third step of 4 seconds is the first after 10, the first and the last are always told.
    assert len(told) == 28 and told[0] == "step 21 of 100, loss 2.5, 0.25 steps/s, 5:16 left"
    assert told[1].startswith("step 24 of 100") and told[-1] == "step 100 of 100, loss 2.5, 0.25 steps/s, took 5:20"


def test_the_bar_counts_the_steps_of_the_run() -> None:
    bar, trainer = StepBar(), SimpleNamespace(max_steps=300, max_epochs=-1, global_step=7, sanity_checking=False)
    bar._trainer = trainer  # type: ignore[assignment]
    assert bar.total_train_batches == 300 and bar._get_train_description(0).strip() == "Training"
    trainer.max_steps, trainer.max_epochs = -1, 3
    assert bar._get_train_description(1).strip() == "Epoch 1/2"
    trainer.max_epochs = -1
    assert bar._get_train_description(1).strip() == "Epoch 1"


def test_loading_draws_no_bar_into_a_file(backbone_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers.utils import logging as transformers_logging

    assert not sys.stderr.isatty()
    # A test before may have switched them off.
    transformers_logging.enable_progress_bar()
    backbone_source.load(str(backbone_folder), torch.float32, None)
    assert capfd.readouterr().err == "" and transformers_logging.is_progress_bar_enabled()


@pytest.mark.parametrize(
    "seconds, told", [(0, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03"), (float("inf"), "?"), (-1, "?")]
)
def test_times(seconds: float, told: str) -> None:
    assert clock(seconds) == told
