"""Runs that are broken off, by signals, lost processes, a full disk or damaged files, end as if they had not been."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lightning_modules.cli import main
from lightning_modules.whole_checkpoints import step_of
from tests.faults import signal_at
from tests.full_disk import full_disk
from tests.integration.test_cli import refused
from tests.tiny_run import config, logged, tiny, write_documents

pytestmark = [
    pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:.*split is empty"),
    pytest.mark.filterwarnings("ignore:The `srun` command", "ignore:Checkpoint directory"),
]
STEPS, ROWS, WEIGHT, KILLS = 15, 4, 2e-7, 3
# Seconds that the processes may take to notice that one is gone, or at the time limit that it does not answer; a limit
# shorter than processes start apart would end every run.
PATIENCE, LIMIT = 60, 45

Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Iterator[Arguments]:
    """``arguments(folder, strategy)`` for a run in a folder that ends at `STEPS` and saves every second step."""
    texts = write_documents(tmp_path_factory.mktemp("faults"))
    cache = os.environ.get("R3MEM_CACHE")
    os.environ["R3MEM_CACHE"] = str(texts.parent / "cache")

    def make(folder: Path, strategy: str = "one", *more: str) -> list[str]:
        devices = 1 if strategy == "one" else 2
        return [
            "fit", *config("model/virtual_tokens", "data/files"),
            *config("trainer/deepspeed_zero2" if strategy == "zero2" else "trainer/ddp"),
            *tiny(backbone_folder, texts, folder), "--trainer.accelerator=cpu", f"--trainer.devices={devices}",
            *(["--trainer.strategy=auto"] if strategy == "one" else []), "--trainer.limit_val_batches=0",
            f"--trainer.max_steps={STEPS}", "--checkpoint.every_n_train_steps=2",
            "--data.init_args.segments_per_step=2",
            f"--data.init_args.batch_size={ROWS // devices}", "--ckpt_path=latest", *more,
        ]  # fmt: skip

    yield make
    if cache is None:
        del os.environ["R3MEM_CACHE"]
    else:
        os.environ["R3MEM_CACHE"] = cache


@pytest.fixture(scope="module")
def undisturbed(arguments: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    main(arguments(folder))
    return folder


def assert_ended_as(found: Path, wanted: Path, tolerance: float = 0.0) -> None:
    ends = [load_file(folder / "model" / "r3mem.safetensors") for folder in (found, wanted)]
    assert ends[0].keys() == ends[1].keys()
    for name, weight in ends[0].items():
        assert float((weight - ends[1][name]).abs().max()) <= tolerance, name
    losses = [float(logged(folder, "train/loss")[STEPS - 1]) for folder in (found, wanted)]
    assert abs(losses[0] - losses[1]) <= 10 * tolerance


def whole(folder: Path) -> list[int]:
    """Steps of all checkpoints; none is damaged."""
    return sorted(step_of(path) for path in (folder / "checkpoints").glob("*.ckpt"))


def test_a_run_told_to_end_saves_and_goes_on_from_what_is_whole(
    arguments: Arguments, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments(tmp_path, "one", *signal_at(4, "SIGTERM")))
    # The step that it was told in is finished and saved.
    assert end.value.code == 143 and whole(tmp_path) == [4, 4, 5]
    saved = tmp_path / "checkpoints" / "last-step5.ckpt"
    written = saved.read_bytes()
    saved.write_bytes(written[: len(written) // 2])
    for path in (str(saved), "last"):
        line = refused(capsys, lambda path=path: main([*arguments(tmp_path), f"--ckpt_path={path}"]))
        assert "last-step5.ckpt is not whole" in line and "--ckpt_path latest takes" in line
    with pytest.warns(UserWarning, match=r"left out: checkpoint .*last-step5\.ckpt is not whole"):
        main(arguments(tmp_path))
    assert min(logged(tmp_path, "train/loss")) == 4
    assert_ended_as(tmp_path, undisturbed)


def test_a_full_disk_ends_a_run_that_then_goes_on(
    arguments: Arguments, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments(tmp_path, "one", *signal_at(2, "SIGTERM")))
    before = whole(tmp_path)
    with full_disk():
        line = refused(capsys, lambda: main(arguments(tmp_path)))
    assert "step4.ckpt cannot be written" in line and "still there: last-step3.ckpt, last.ckpt, step2.ckpt;" in line
    assert whole(tmp_path) == before == [2, 2, 3]
    assert not [name for name in os.listdir(tmp_path / "checkpoints") if name.startswith(".")]
    main(arguments(tmp_path))
    assert_ended_as(tmp_path, undisturbed)


def test_what_latest_cannot_mean_is_refused(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anew = "--trainer.logger.init_args.version=null"
    assert "takes a new one at each start" in refused(capsys, lambda: main(arguments(tmp_path, "one", anew)))
    untrained = ["test", *arguments(tmp_path)[1:]]
    assert "this run has no checkpoint" in refused(capsys, lambda: main(untrained))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")
def test_kills_at_random_moments_leave_whole_checkpoints(
    arguments: Arguments, undisturbed: Path, tmp_path: Path
) -> None:
    draw, checkpoints = random.Random(0), tmp_path / "checkpoints"
    command = [*arguments(tmp_path), "--checkpoint.every_n_train_steps=1"]

    def last_written() -> int:
        return max((path.stat().st_mtime_ns for path in checkpoints.glob("last*.ckpt")), default=0)

    for _ in range(KILLS):
        before = last_written()
        child = os.fork()
        if not child:
            try:
                main(command)
            finally:
                os._exit(1)
        # From its first save on, it trains and saves in turn.
        wait_until(lambda before=before: last_written() > before, 250, lambda: "no step was taken")  # type: ignore[misc]
        time.sleep(draw.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the run ended before it could be killed"
        assert whole(tmp_path)
    main(command)
    assert_ended_as(tmp_path, undisturbed)


@contextmanager
def started(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A run of two processes; what is left of it is ended."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "lightning_modules.cli", *command], stdout=file, stderr=file, start_new_session=True,
            **options,
        )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(what: Callable[[], bool], seconds: float, why: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why()
        time.sleep(0.05)


def broken_off(command: list[str], folder: Path, **options: Any) -> tuple[int, str]:
    """Start a run that a signal hits, and wait until all of its processes have ended: its code, and what it said."""
    log = folder / "log.txt"
    log.write_text("")
    (folder / "hit").unlink(missing_ok=True)
    with started(command, log, **options) as process:
        wait_until(lambda: (folder / "hit").exists() or process.poll() is not None, 250, log.read_text)
        wait_until(lambda: process.poll() is not None, PATIENCE + LIMIT, lambda: "hangs\n" + log.read_text())
        pids = [int((folder / f"pid-{rank}").read_text()) for rank in (0, 1)]
        wait_until(lambda: not any(alive(pid) for pid in pids), PATIENCE, lambda: "one hangs\n" + log.read_text())
        return process.returncode, log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_two_processes_through_all_that_may_hit_one_of_them(
    arguments: Arguments, undisturbed: Path, tmp_path: Path, strategy: str
) -> None:
    def hit(*fault: Any) -> tuple[int, str]:
        return broken_off(arguments(tmp_path, strategy, *signal_at(*fault)), tmp_path)

    code, said = hit(2, "SIGKILL", 1)
    # Lightning watches what the first process started, every five seconds, and may be faster than gloo's error.
    assert code == -signal.SIGKILL or (code == 1 and "r3mem: another process of this run has ended" in said)
    assert "Traceback" not in said
    assert whole(tmp_path) == [2, 2]
    code, said = hit(4, "SIGKILL", 0)
    assert code == -signal.SIGKILL and "r3mem: another process" in said and max(whole(tmp_path)) == 4
    for step, rank in ((4, 1), (6, 0)):
        code, said = hit(step, "SIGTERM", rank)
        assert code == 143 and "told to end by SIGTERM" in said and max(whole(tmp_path)) == step + 1
    with started(arguments(tmp_path, strategy), tmp_path / "log.txt") as process:
        assert process.wait(250) == 0, (tmp_path / "log.txt").read_text()
    assert_ended_as(tmp_path, undisturbed, WEIGHT)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_that_does_not_answer_ends_the_run_at_the_time_limit(arguments: Arguments, tmp_path: Path) -> None:
    limit = [
        "--trainer.strategy.class_path=lightning.pytorch.strategies.DDPStrategy",
        f"--trainer.strategy.init_args.timeout=0:00:{LIMIT}",
    ]
    code, said = broken_off(arguments(tmp_path, "ddp", *limit, *signal_at(2, "SIGSTOP", 1)), tmp_path)
    assert code == 1 and "does not answer" in said and "Traceback" not in said and whole(tmp_path) == [2, 2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_full_disk_ends_all_processes(arguments: Arguments, tmp_path: Path) -> None:
    # The second process is hit by nothing: signal 0 does not exist here, SIGCONT changes nothing.
    free = 1 << 16
    code, said = broken_off(
        arguments(tmp_path, "ddp", *signal_at(0, "SIGCONT", 1)), tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (free, free)),
    )  # fmt: skip
    assert code == 2 and "step2.ckpt cannot be written" in said and "no checkpoint is there yet" in said
    assert whole(tmp_path) == []
