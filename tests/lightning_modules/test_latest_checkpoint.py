"""The latest whole checkpoint is found among all that a run left; nothing is taken silently from elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from lightning_modules.latest_checkpoint import SameStart, began_again, check_folders, latest_checkpoint
from lightning_modules.whole_checkpoints import WholeCheckpoints
from r3mem import InputError
from tests.lightning_modules.test_whole_checkpoints import checkpoint, damage

pytestmark = pytest.mark.filterwarnings("ignore:The `srun` command")


def trainer(folder: Path, version: str | None = "log", dirpath: Path | str | None = None) -> Trainer:
    return Trainer(
        default_root_dir=folder, logger=CSVLogger(folder, name="", version=version), accelerator="cpu",
        callbacks=[ModelCheckpoint(dirpath=dirpath)], enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def save(step: int, path: Path, seconds: int = 0) -> Path:
    WholeCheckpoints().save_checkpoint(checkpoint(step), path)
    os.utime(path, (seconds, seconds))
    return path


def test_the_latest_step_is_taken_wherever_it_is_and_whenever_it_was_copied(tmp_path: Path) -> None:
    run, checkpoints = trainer(tmp_path), tmp_path / "log" / "checkpoints"
    assert latest_checkpoint(run) is None
    save(9, checkpoints / "step9.ckpt", seconds=5)
    last = save(10, checkpoints / "last.ckpt", seconds=2)
    assert latest_checkpoint(run) == last
    assert latest_checkpoint(run) != save(10, checkpoints / "step10.ckpt", seconds=1)
    signalled = save(11, tmp_path / "hpc_ckpt_1.ckpt")
    assert latest_checkpoint(run) == signalled
    (checkpoints / ".step12.ckpt-abc").mkdir()
    save(12, checkpoints / ".step12.ckpt-abc" / "written")
    assert latest_checkpoint(run) == signalled


def test_damaged_ones_are_told_and_left_out(tmp_path: Path) -> None:
    run, checkpoints = trainer(tmp_path), tmp_path / "log" / "checkpoints"
    whole = save(5, checkpoints / "step5.ckpt")
    damage(save(10, checkpoints / "last.ckpt"), "cut")
    damage(save(11, tmp_path / "hpc_ckpt_1.ckpt"), "another byte")
    with pytest.warns(UserWarning) as told:
        assert latest_checkpoint(run) == whole
    said = " ".join(str(warning.message) for warning in told)
    assert "left out: checkpoint" in said and "last.ckpt is not whole" in said and "hpc_ckpt_1.ckpt is" in said
    damage(whole, "empty")
    with pytest.warns(UserWarning), pytest.raises(InputError, match=r"none of .* is whole .*delete them to begin anew"):
        latest_checkpoint(run)


def test_a_folder_that_is_new_at_each_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"CSVLogger takes a new one at each start: .*version=NAME"):
        check_folders(trainer(tmp_path, version=None))
    check_folders(trainer(tmp_path))
    check_folders(trainer(tmp_path, version=None, dirpath=tmp_path / "kept"))
    with pytest.raises(InputError, match="not into memory://"):
        check_folders(trainer(tmp_path, dirpath="memory://kept"))
    # Another run's checkpoints are not this run's.
    save(5, tmp_path / "version_0" / "checkpoints" / "last.ckpt")
    assert latest_checkpoint(trainer(tmp_path, version=None)) is None


class TwoProcesses:
    """What the first process found, and whether all agree."""

    def __init__(self, first: Path | None) -> None:
        self.first = first

    def broadcast(self, found: Path | None) -> Path | None:
        return self.first

    def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
        return decision


def test_processes_that_found_different_checkpoints_do_not_start(tmp_path: Path) -> None:
    run: Any = type("Run", (), {"strategy": TwoProcesses(tmp_path / "last.ckpt")})
    module: Any = None
    SameStart(tmp_path / "last.ckpt").setup(run, module, "fit")
    with pytest.raises(InputError, match="a folder that all machines share"):
        SameStart(None).setup(run, module, "fit")


def test_only_a_job_that_slurm_restarted_began_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "SLURM_JOB_NAME", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not began_again()
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert began_again()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
    assert not began_again()
