"""Two real processes over gloo train what one does: the same losses, weights, optimiser state, under any strategy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn

from datamodules.synthetic import SmallLlama
from lightning_modules.export import export
from lightning_modules.strategies import AdapterDeepSpeedStrategy, AdapterFSDPStrategy, check_strategy
from r3mem import ConfigError, R3MemError
from tests.tiny_run import config, largest_difference, logged, tiny, write_documents

STEPS, HALF, ROWS = 8, 4, 4
# Measured: 1e-6 for losses and 3e-8 for weights.
LOSS, WEIGHT = 2e-6, 2e-7
# In bfloat16, sums over other rows round otherwise. Measured: 5e-4 for losses and 2e-5 for weights.
BF16_LOSS, BF16_WEIGHT = 2e-3, 5e-5
VARIANTS = {
    "plain": (),
    "bf16": ("--trainer.precision=bf16-mixed", "--model.backbone.init_args.dtype=bfloat16"),
    "checkpointing": ("--model.backbone.init_args.gradient_checkpointing=true",),
    "replay": ("--model.replay=true",),
    "offload": ("--trainer.strategy.init_args.offload_optimizer=true",),
}

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Run:
    """Trains under a strategy, once, and gives the folder: ``run("ddp")``; ``run("one", "ddp")`` goes on from DDP's.

    ``run("ddp", variant="bf16")`` has other settings too.
    """
    root = tmp_path_factory.mktemp("strategies")
    texts = write_documents(root)

    def train(strategy: str, begun_by: str | None = None, variant: str = "plain") -> Path:
        folder = root / "-".join([begun_by or "new", strategy, variant])
        if folder.exists():
            return folder
        devices = 1 if strategy == "one" else 2
        trainer = {"zero": "trainer/deepspeed_zero2", "fsdp": "trainer/fsdp"}.get(strategy[:4], "trainer/ddp")
        arguments = [
            *config("model/virtual_tokens", "data/files", trainer), *tiny(backbone_folder, texts, folder),
            "--trainer.accelerator=cpu", f"--trainer.devices={devices}", f"--trainer.max_steps={STEPS}",
            "--trainer.limit_val_batches=1", f"--trainer.val_check_interval={HALF}", "--trainer.num_sanity_val_steps=0",
            *VARIANTS[variant], f"--checkpoint.every_n_train_steps={HALF}", "--checkpoint.save_top_k=-1",
            "--data.init_args.segments_per_step=2", f"--data.init_args.batch_size={ROWS // devices}",
        ]  # fmt: skip
        if strategy.startswith("zero"):
            arguments.append(f"--trainer.strategy.init_args.stage={strategy[-1]}")
        if strategy == "fsdp" and variant == "plain" and begun_by is None:
            arguments += ["--trainer.callbacks+=tests.tiny_run.WatchSplitLayers", f"--trainer.callbacks.folder={root}"]
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


def assert_same(found: Path, wanted: Path) -> None:
    losses, expected = logged(found, "train/loss"), logged(wanted, "train/loss")
    assert max(losses) == STEPS - 1 and len({*expected.values()}) > 1
    assert all(abs(float(value) - float(expected[step])) < LOSS for step, value in losses.items())
    saved, reference = (torch.load(checkpoint(folder, STEPS), weights_only=True) for folder in (found, wanted))
    assert largest_difference(saved["state_dict"], reference["state_dict"]) < WEIGHT
    states, expected_states = (c["optimizer_states"][0]["state"] for c in (saved, reference))
    assert states.keys() == expected_states.keys()
    assert max(largest_difference(states[i], expected_states[i]) for i in states) < WEIGHT
    for metric in ("val/nll_memory", "val/nll_full", "val/recall_token_accuracy"):
        values, expected = logged(found, metric), logged(wanted, metric)
        assert STEPS - 1 in values
        assert all(abs(float(value) - float(expected[step])) < LOSS for step, value in values.items())


def assert_exported(found: Path, out: Path) -> None:
    """The one file of trained weights that the run writes at its end can also be made of its last checkpoint."""
    export(checkpoint(found, STEPS), out)
    for name in ("r3mem.json", "r3mem.safetensors"):
        assert (out / name).read_bytes() == (found / "model" / name).read_bytes()


@pytest.mark.parametrize(
    "strategy", ["ddp", pytest.param("zero1", marks=pytest.mark.slow), "zero2", "fsdp"]
)  # fmt: skip
def test_two_processes_are_one(run: Run, strategy: str, tmp_path: Path) -> None:
    assert_same(run(strategy), run("one"))
    assert_exported(run(strategy), tmp_path / "exported")


def test_a_process_holds_half_of_the_frozen_layers_and_leaves_none_open(run: Run) -> None:
    """Passes that end at the layer where memories are written must not leave that layer put together."""
    root = run("fsdp").parent
    for rank in range(2):
        lines = [line.split() for line in (root / f"split-{rank}.txt").read_text().splitlines()]
        assert len(lines) >= STEPS
        assert all(abs(float(share) - 0.5) < 0.01 and still_open == "0" for share, still_open in lines)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "fsdp"])
def test_two_processes_are_one_in_bfloat16(run: Run, strategy: str) -> None:
    found, wanted = run(strategy, variant="bf16"), run("one", variant="bf16")
    losses, expected = logged(found, "train/loss"), logged(wanted, "train/loss")
    assert max(losses) == STEPS - 1
    assert all(abs(float(value) - float(expected[step])) < BF16_LOSS for step, value in losses.items())
    saved, reference = (torch.load(checkpoint(f, STEPS), weights_only=True)["state_dict"] for f in (found, wanted))
    assert largest_difference(saved, reference) < BF16_WEIGHT
    # What is trained stays in float32, and so does what places words exactly in a memory.
    assert all(saved[name].dtype == tensor.dtype for name, tensor in reference.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "variant"),
    [("fsdp", "checkpointing"), ("fsdp", "replay"), ("zero1", "offload"), ("zero2", "offload")],
)
def test_settings_that_save_memory_change_nothing(run: Run, strategy: str, variant: str) -> None:
    assert_same(run(strategy, variant=variant), run("one"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begun_by", "strategy"),
    [("zero2", "one"), ("one", "zero2"), ("ddp", "zero1"), ("zero1", "ddp"), ("fsdp", "zero2"), ("one", "fsdp")],
)
def test_a_run_goes_on_under_another_strategy_and_number_of_processes(run: Run, begun_by: str, strategy: str) -> None:
    folder = run(strategy, begun_by)
    assert min(logged(folder, "train/loss")) == HALF
    assert_same(folder, run("one"))


def test_what_would_train_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"take stage 2.*AdapterFSDPStrategy"):
        AdapterDeepSpeedStrategy(stage=3)
    with pytest.raises(ConfigError, match="AdapterDeepSpeedStrategy with stage 1 or 2"):
        check_strategy(DeepSpeedStrategy(stage=2))
    with pytest.raises(ConfigError, match="ZeRO stage 3, as config has it"):
        AdapterDeepSpeedStrategy(config={"zero_optimization": {"stage": 3}})
    with pytest.raises(ConfigError, match="pairs of context and query"):
        AdapterFSDPStrategy().batch_to_device({"query_BTQ": torch.zeros(1, 1, 1)})
    check_strategy(AdapterDeepSpeedStrategy(stage=1))
    check_strategy(AdapterFSDPStrategy())
    for split in (FSDPStrategy(), ModelParallelStrategy()):
        with pytest.raises(ConfigError, match="AdapterFSDPStrategy"):
            check_strategy(split)
    with pytest.raises(ConfigError, match="no frozen layers"):
        AdapterFSDPStrategy().split(SmallLlama())


@pytest.mark.parametrize(("others", "same"), [((0, 1, 0), True), ((1, 0, 0), False), ((0, 1), False)])
def test_processes_that_ran_other_layers_are_stopped(
    monkeypatch: pytest.MonkeyPatch, others: tuple[int, ...], same: bool
) -> None:
    """Parts of different layers would be put together without an error."""
    monkeypatch.setattr(AdapterFSDPStrategy, "root_device", torch.device("cpu"))
    here, there = AdapterFSDPStrategy(), AdapterFSDPStrategy()
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(there, "reduce", lambda ran_2, reduce_op: sent.append(ran_2) or ran_2)
    monkeypatch.setattr(here, "reduce", lambda ran_2, reduce_op: torch.maximum(ran_2, sent[-1]))
    for _ in range(2):
        for strategy, layers in ((there, others), (here, (0, 1, 0))):
            for n in layers:
                strategy._note(n)
        there.pre_backward(torch.zeros(()))
        if same:
            here.pre_backward(torch.zeros(()))
            continue
        with pytest.raises(ConfigError, match="ran different layers"):
            here.pre_backward(torch.zeros(()))


def test_split_layers_do_not_predict() -> None:
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn=TrainerFn.PREDICTING))
    with pytest.raises(ConfigError, match="take the strategy ddp or auto"):
        AdapterFSDPStrategy().setup(trainer)


def test_a_step_that_deepspeed_leaves_out_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = AdapterDeepSpeedStrategy()
    monkeypatch.setattr(DeepSpeedStrategy, "optimizer_step", lambda *a, **k: 3.0)
    engine = SimpleNamespace(optimizer=SimpleNamespace(overflow=False))
    monkeypatch.setattr(AdapterDeepSpeedStrategy, "deepspeed_engine", engine)
    assert strategy.optimizer_step() == 3.0
    engine.optimizer.overflow = True
    with pytest.raises(R3MemError, match=r"gradients are not finite.*learning rate"):
        strategy.optimizer_step()


def test_an_optimiser_without_state_has_none_to_save() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    for momentum, keys in ((0.0, []), (0.9, ["momentum_buffer"])):
        plain = torch.optim.SGD([weight], 0.1, momentum)
        plain.step()
        assert AdapterDeepSpeedStrategy._keys(plain) == keys and AdapterDeepSpeedStrategy._steps(plain) == {}
