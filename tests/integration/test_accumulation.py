"""Two processes that add up the gradients of two batches train what one does on all rows at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tiny_run import config, largest_difference

# Every row of the synthetic task counts the same, so that a mean of two batches' means is the mean of their rows.
STEPS, ROWS = 4, 8
# Measured: 4e-6, rounding of sums in another order, which Adam divides by the gradients' size.
WEIGHT = 1e-5

Run = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Weights after some steps on the same rows: ``trained("ddp", devices=2, accumulate=2)``."""
    root = tmp_path_factory.mktemp("accumulation")

    def train(strategy: str, devices: int, accumulate: int, rows: int = ROWS) -> dict[str, torch.Tensor]:
        folder = root / f"{strategy}-{devices}-{accumulate}-{rows}"
        overlay = [f"trainer/{strategy}"] if strategy != "auto" else []
        arguments = [
            *config("experiment/associative_recall", *overlay), "--trainer.accelerator=cpu",
            f"--trainer.devices={devices}", f"--trainer.max_steps={STEPS}", "--trainer.limit_val_batches=0",
            f"--trainer.accumulate_grad_batches={accumulate}", "--model.warmup_steps=1",
            f"--data.init_args.batch_size={rows // devices // accumulate}", "--trainer.enable_progress_bar=false",
            f"--checkpoint.every_n_train_steps={STEPS}", f"--trainer.default_root_dir={folder}",
            "--trainer.logger=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.init_args.save_dir={folder}",
            "--trainer.logger.init_args.name=", "--trainer.logger.init_args.version=",
        ]  # fmt: skip
        command = [sys.executable, "-m", "lightning_modules.cli", "fit", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-3000:]
        saved = torch.load(Path(folder) / "checkpoints" / f"step{STEPS}.ckpt", weights_only=True)
        assert saved["global_step"] == STEPS
        weights: dict[str, torch.Tensor] = saved["state_dict"]
        return weights

    return train


@pytest.fixture(scope="module")
def at_once(trained: Run) -> dict[str, torch.Tensor]:
    return trained("auto", devices=1, accumulate=1)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("deepspeed_zero2", marks=pytest.mark.slow)])
def test_two_batches_of_two_processes_are_one(trained: Run, at_once: dict[str, torch.Tensor], strategy: str) -> None:
    assert largest_difference(trained(strategy, devices=2, accumulate=2), at_once) < WEIGHT


@pytest.mark.slow
def test_half_of_the_rows_are_something_else(trained: Run, at_once: dict[str, torch.Tensor]) -> None:
    """So that the test above could fail."""
    found = trained("ddp", devices=2, accumulate=2, rows=ROWS // 2)
    assert largest_difference(found, at_once) > 100 * WEIGHT
