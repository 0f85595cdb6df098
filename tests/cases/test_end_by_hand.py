"""Ctrl-C and a closed terminal save a run, once, as SIGTERM does; a second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from lightning_modules.cli import main
from lightning_modules.whole_checkpoints import step_of
from tests.faults import signal_at

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = ["--trainer.max_steps=100000", "--checkpoint.every_n_train_steps=100000"]


@pytest.fixture(autouse=True)
def _signals_are_heard() -> Iterator[None]:
    """Whoever starts the tests in the background (``&``, ``nohup``) has signals ignored, and a run respects that."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class LongStep(Callback):
    """A first step that does not end by itself."""

    def on_train_batch_start(self, *_: object) -> None:
        print("in a long step", flush=True)
        while True:
            time.sleep(0.1)


class LongStart(Callback):
    """A start that does not end by itself."""

    def setup(self, *_: object, **__: object) -> None:
        print("in a long start", flush=True)
        while True:
            time.sleep(0.1)


def saved(folder: Path) -> list[int]:
    return sorted(step_of(path) for path in (folder / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize("name, code", [("SIGINT", 130), ("SIGHUP", 129), ("SIGTERM", 143)])
def test_the_step_is_finished_and_saved(
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    name: str,
    code: int,
) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    with pytest.raises(SystemExit) as end:
        main(arguments("fit", "run", *STEPS, *signal_at(3, name)))
    assert end.value.code == code and saved(tmp_path / "run") == [4]
    assert f"told to end by {name} at step 4: saved" in caplog.text
    assert ("Ctrl-C again ends at once" in capfd.readouterr().err) == (name == "SIGINT")
    assert {n: signal.getsignal(n) for n in before} == before
    main(arguments("fit", "run", "--trainer.max_steps=6", "--ckpt_path=latest"))
    assert max(saved(tmp_path / "run")) == 6


def test_what_was_started_to_be_ignored_stays_so(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        main(arguments("fit", "run", "--trainer.max_steps=5", *signal_at(2, "SIGHUP")))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert saved(tmp_path / "run") == [5]


def wait_for(what: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 250
    while not what():
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "lightning_modules.command", *command],
            stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("names", [["SIGINT"], ["SIGTERM", "SIGINT"], ["SIGINT", "SIGTERM", "SIGTERM"]])
def test_a_process_that_is_interrupted_saves_once(
    arguments: Callable[..., list[str]], tmp_path: Path, names: list[str]
) -> None:
    log = tmp_path / "log.txt"
    process = started(arguments("fit", "run", *STEPS, "--trainer.enable_progress_bar=true"), log)
    try:
        wait_for(lambda: "step 1 of" in log.read_text(), process, log)
        for name in names:
            os.kill(process.pid, signal.Signals[name])
        # Python answers those that came together in an order of its own.
        assert process.wait(120) in {128 + signal.Signals[name] for name in names}, log.read_text()
    finally:
        process.kill()
        process.wait()
    (step,) = saved(tmp_path / "run")
    assert step >= 1 and log.read_text().count(f"at step {step}: saved") == 1 and "Traceback" not in log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_second_interruption_ends_at_once(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    held = ["--trainer.enable_progress_bar=true", "--trainer.callbacks=tests.cases.test_end_by_hand.LongStep"]
    process = started(arguments("fit", "run", *STEPS, *held), log)
    try:
        wait_for(lambda: "in a long step" in log.read_text(), process, log)
        os.kill(process.pid, signal.SIGINT)
        wait_for(lambda: "Ctrl-C again ends at once" in log.read_text(), process, log)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT
    finally:
        process.kill()
        process.wait()
    assert saved(tmp_path / "run") == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interruption_before_the_first_step_is_one_line(arguments: Callable[..., list[str]], tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    held = "--trainer.callbacks=tests.cases.test_end_by_hand.LongStart"
    process = started(arguments("fit", "run", *STEPS, held), log)
    try:
        wait_for(lambda: "in a long start" in log.read_text(), process, log)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.wait()
    assert "r3mem: interrupted" in log.read_text() and "Traceback" not in log.read_text()
