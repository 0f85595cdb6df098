"""Two real processes over gloo train what one does: the same losses, weights, optimiser state, under any strategy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy

from lightning_modules.strategies import AdapterDeepSpeedStrategy, check_strategy
from r3mem import ConfigError
from tests.tiny_run import config, logged, tiny, write_documents

STEPS, HALF, ROWS = 8, 4, 4
# Measured: 1e-6 for losses and 3e-8 for weights.
LOSS, WEIGHT = 2e-6, 2e-7

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Run:
    """Trains under a strategy, once, and gives the folder: ``run("ddp")``; ``run("one", "ddp")`` goes on from DDP's."""
    root = tmp_path_factory.mktemp("strategies")
    texts = write_documents(root)

    def train(strategy: str, begun_by: str | None = None) -> Path:
        folder = root / (strategy if begun_by is None else f"{begun_by}-{strategy}")
        if folder.exists():
            return folder
        devices = 1 if strategy == "one" else 2
        trainer = {"zero": "trainer/deepspeed_zero2", "fsdp": "trainer/fsdp"}.get(strategy[:4], "trainer/ddp")
        arguments = [
            *config("model/virtual_tokens", "data/files", trainer), *tiny(backbone_folder, texts, folder),
            "--trainer.accelerator=cpu", f"--trainer.devices={devices}", f"--trainer.max_steps={STEPS}",
            "--trainer.limit_val_batches=0", f"--checkpoint.every_n_train_steps={HALF}", "--checkpoint.save_top_k=-1",
            "--data.init_args.segments_per_step=2", f"--data.init_args.batch_size={ROWS // devices}",
        ]  # fmt: skip
        if strategy.startswith("zero"):
            arguments.append(f"--trainer.strategy.init_args.stage={strategy[-1]}")
        if strategy == "one":
            arguments.append("--trainer.strategy=auto")
        if begun_by is not None:
            arguments.append(f"--ckpt_path={checkpoint(train(begun_by), HALF)}")
        command = [sys.executable, "-m", "lightning_modules.cli", "fit", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return folder

    return train


def checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step{step}.ckpt"


def largest_difference(one: dict[Any, Any], other: dict[Any, Any]) -> float:
    assert set(one) == set(other)
    return max(float((torch.as_tensor(one[k]) - torch.as_tensor(other[k])).abs().max()) for k in one)


def assert_same(found: Path, wanted: Path) -> None:
    losses, expected = logged(found, "train/loss"), logged(wanted, "train/loss")
    assert max(losses) == STEPS - 1 and len({*expected.values()}) > 1
    assert all(abs(float(value) - float(expected[step])) < LOSS for step, value in losses.items())
    saved, reference = (torch.load(checkpoint(folder, STEPS), weights_only=True) for folder in (found, wanted))
    assert largest_difference(saved["state_dict"], reference["state_dict"]) < WEIGHT
    states, expected_states = (c["optimizer_states"][0]["state"] for c in (saved, reference))
    assert states.keys() == expected_states.keys()
    assert max(largest_difference(states[i], expected_states[i]) for i in states) < WEIGHT
    assert (found / "model" / "r3mem.json").is_file()


@pytest.mark.parametrize(
    "strategy", ["ddp", pytest.param("zero1", marks=pytest.mark.slow), "zero2", "fsdp"]
)  # fmt: skip
def test_two_processes_are_one(run: Run, strategy: str) -> None:
    assert_same(run(strategy), run("one"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun_by", "strategy"), [("zero2", "one"), ("one", "zero2"), ("ddp", "zero1"), ("zero1", "ddp")]
)
def test_a_run_goes_on_under_another_strategy_and_number_of_processes(run: Run, begun_by: str, strategy: str) -> None:
    folder = run(strategy, begun_by)
    assert min(logged(folder, "train/loss")) == HALF
    assert_same(folder, run("one"))


def test_what_would_train_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match="take stage 2"):
        AdapterDeepSpeedStrategy(stage=3)
    with pytest.raises(ConfigError, match="AdapterDeepSpeedStrategy with stage 1 or 2"):
        check_strategy(DeepSpeedStrategy(stage=2))
    check_strategy(AdapterDeepSpeedStrategy(stage=1))
