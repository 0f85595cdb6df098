"""Only training writes a run's settings; a checkpoint refuses others, or the command line wins, never silently."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_modules.export import export
from r3mem import FingerprintError
from tests.integration.test_cli import refused

pytestmark = pytest.mark.filterwarnings("ignore")
Run = Callable[..., Path]


class RecordRates(Callback):
    """Writes the optimiser's settings of every step to ``rates.json`` in the run's folder, before it is taken."""

    def __init__(self) -> None:
        self.found: dict[int, dict[str, Any]] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        (group,) = optimizer.param_groups
        self.found[trainer.global_step] = {k: group[k] for k in ("lr", "initial_lr", "weight_decay", "betas")}
        (Path(trainer.default_root_dir) / "rates.json").write_text(json.dumps(self.found))


RATES = f"--trainer.callbacks={__name__}.RecordRates"


def rates(folder: Path) -> dict[int, dict[str, Any]]:
    return {int(step): found for step, found in json.loads((folder / "rates.json").read_text()).items()}


def test_other_commands_leave_the_settings_of_a_run_alone(run: Run, fitted: Path, tmp_path: Path) -> None:
    folder = fitted
    written, last = (folder / "config.yaml").read_bytes(), folder / "checkpoints" / "last.ckpt"
    for command in ("validate", "test", "predict"):
        run(command, "run", f"--ckpt_path={last}", "--data.init_args.seed=7")
        assert (folder / "config.yaml").read_bytes() == written
        beside = yaml.safe_load((folder / f"config-{command}.yaml").read_text())
        assert beside["data"]["init_args"]["seed"] == 7
    export(last, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "r3mem.json").read_text())
    assert told["compressor"]["init_args"]["ratio"] == 4 and told["backbone"]["init_args"]["lora_alpha"] == 32.0


CONTRADICTIONS = (
    # A parser takes most of a command's time: what can be told together is.
    {
        "backbone.init_args.lora_alpha=999": "model.backbone.init_args.lora_alpha is 999.0 here, 32.0 in",
        "compressor.init_args.ratio=2": "model.compressor.init_args.ratio is 2 here, 4 in",
        "compressor.init_args.pooled=0.25": "model.compressor.init_args.pooled is 0.25 here, 0.5 in",
    },
    {
        "compressor=r3mem.compressors.EdgePool": (
            "model.compressor is r3mem.compressors.edge_pool.EdgePool here, r3mem.compressors.virtual_tokens.Virtual"
        )
    },
)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("others", CONTRADICTIONS, ids=["arguments", "class"])
def test_settings_that_contradict_a_checkpoint_are_refused_by_name(
    run: Run, fitted: Path, capsys: pytest.CaptureFixture[str], command: str, others: dict[str, str]
) -> None:
    given = [f"--ckpt_path={fitted / 'checkpoints' / 'last.ckpt'}", *(f"--model.{other}" for other in others)]
    line = refused(capsys, lambda: run(command, "other", *given))
    assert all(says in line for says in others.values()) and "contradict the checkpoint" in line


def test_what_computes_the_same_may_differ(run: Run, fitted: Path) -> None:
    last = fitted / "checkpoints" / "last.ckpt"
    free = ["attn_implementation=eager", "gradient_checkpointing=true", "lora_dropout=0.1"]
    run("validate", "other", f"--ckpt_path={last}", *(f"--model.backbone.init_args.{setting}" for setting in free))


def test_a_checkpoint_of_another_ratio_is_not_exported_under_the_settings_beside_it(
    run: Run, fitted: Path, tmp_path: Path
) -> None:
    path = fitted / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["model"]["compressor"]["init_args"]["ratio"] = 2
    settings["model"]["decoder"]["init_args"]["couplings"][0]["init_args"]["ratio"] = 2
    settings["model"]["backbone"]["init_args"]["lora_alpha"] = 999.0
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(
        FingerprintError, match=r"lora_alpha is 999.0 here, 32.0 in .*compressor\.init_args\.ratio is 2"
    ):
        export(fitted / "checkpoints" / "last.ckpt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_ratio_of_a_step_is_not_taken_for_the_model_s(run: Run, tmp_path: Path) -> None:
    every = ["--model.ratios=[2,4]", "--checkpoint.every_n_train_steps=1", "--checkpoint.save_top_k=-1"]
    folder = run("fit", "run", "--trainer.max_steps=3", *every)
    for path in (folder / "checkpoints").glob("*.ckpt"):
        settings = torch.load(path, weights_only=True)["r3mem"]["settings"]
        assert settings["compressor"]["init_args"]["ratio"] == 4
        assert settings["decoder"]["init_args"]["couplings"][0]["init_args"]["ratio"] == 4
        export(path, tmp_path / "out" / path.stem)


def test_a_run_that_goes_on_has_the_optimiser_settings_of_the_command_line(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    flat = ["--model.warmup_steps=0", "--model.final_lr=1.0", RATES]
    folder = run("fit", "run", "--trainer.max_steps=2", *flat)
    assert rates(folder)[1] == {"lr": 3e-4, "initial_lr": 3e-4, "weight_decay": 0.0, "betas": [0.9, 0.999]}
    caplog.clear()
    optimizer = "--model.optimizer.init_args"
    given = [f"{optimizer}.lr=0.01", f"{optimizer}.weight_decay=0.5", f"{optimizer}.betas=[0.8,0.9]"]
    run("fit", "run", "--trainer.max_steps=4", *flat, *given, "--ckpt_path=latest")
    wanted = {"lr": 0.01, "initial_lr": 0.01, "weight_decay": 0.5, "betas": [0.8, 0.9]}
    assert rates(folder) == {2: wanted, 3: wanted}
    said = caplog.text
    assert "goes on with other settings than the checkpoint's" in said
    for change in ("lr 0.0003 -> 0.01", "weight_decay 0.0 -> 0.5", "steps 2 -> 4"):
        assert change in said
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert saved["model"]["optimizer"]["init_args"]["lr"] == 0.01


def test_warm_up_and_end_of_the_schedule_are_those_of_the_command_line(run: Run) -> None:
    first = ["--model.warmup_steps=2", "--model.final_lr=1.0", RATES]
    folder = run("fit", "run", "--trainer.max_steps=4", *first)
    assert [found["lr"] for found in rates(folder).values()] == [1.5e-4, 3e-4, 3e-4, 3e-4]
    last = f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
    longer = run(
        "fit", "longer", "--trainer.max_steps=7", "--model.warmup_steps=6", "--model.final_lr=1.0", RATES, last
    )
    assert [found["lr"] for found in rates(longer).values()] == pytest.approx([3e-4 * 5 / 6, 3e-4, 3e-4])
    falls = run("fit", "falls", "--trainer.max_steps=6", "--model.warmup_steps=0", "--model.final_lr=0.0", RATES, last)
    # The cosine over 6 steps, at steps 4 and 5.
    assert [found["lr"] for found in rates(falls).values()] == pytest.approx([3e-4 * 0.25, 3e-4 * 0.0669873], rel=1e-5)


def test_a_run_that_goes_on_unchanged_says_nothing_and_computes_the_same(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run("fit", "whole", "--trainer.max_steps=4", RATES)
    stop = [f"--trainer.callbacks+={'tests.tiny_run.StopAfter'}", "--trainer.callbacks.init_args.steps=2"]
    stopped = run("fit", "stopped", "--trainer.max_steps=4", *stop)
    caplog.clear()
    run("fit", "stopped", "--trainer.max_steps=4", RATES, f"--ckpt_path={stopped / 'checkpoints' / 'last.ckpt'}")
    assert "Restored all states" in caplog.text and "goes on with other settings" not in caplog.text
    assert rates(stopped) == {step: found for step, found in rates(whole).items() if step >= 2}


@pytest.mark.parametrize(
    "other, says",
    [
        ("--trainer.max_steps=1", "at step 2, beyond trainer.max_steps 1"),
        ("--model.optimizer=torch.optim.SGD", "was trained with torch.optim.adamw.AdamW, model.optimizer here is"),
        ("--data.init_args.batch_size=2", "made with 4 rows a step (batch_size times processes), now there are 2"),
        ("--data.init_args.segment_tokens=32", "other training documents, seed, mode or segment sizes"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_refused_by_name(
    run: Run, fitted: Path, capsys: pytest.CaptureFixture[str], other: str, says: str
) -> None:
    last = f"--ckpt_path={fitted / 'checkpoints' / 'last.ckpt'}"
    assert says in refused(capsys, lambda: run("fit", "other", "--trainer.max_steps=4", last, other))


def test_a_finished_run_says_that_nothing_is_left(run: Run, fitted: Path, caplog: pytest.LogCaptureFixture) -> None:
    run("fit", "run", "--trainer.max_steps=2", "--ckpt_path=latest")
    assert "has all 2 steps of trainer.max_steps behind it: nothing is left to train" in caplog.text
