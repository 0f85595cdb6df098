"""``r3mem export`` writes from a checkpoint what the run itself would, and refuses other files by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lightning_modules import command
from lightning_modules.cli import main
from r3mem import R3Mem
from tests.tiny_run import config, tiny, write_documents

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Path:
    """The folder of a run of two steps, with a checkpoint of each."""
    root = tmp_path_factory.mktemp("export")
    steps = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--checkpoint.every_n_train_steps=1"]
    arguments = [*config("model/virtual_tokens", "data/files", "trainer/cpu"), *steps, "--model.calibrate=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R3MEM_CACHE", str(root / "cache"))
        sizes = tiny(backbone_folder, write_documents(root), root / "run")
        main(["fit", *arguments, *sizes, "--checkpoint.save_top_k=-1", "--data.init_args.segment_tokens=[8, 16]"])
    return root / "run"


def export(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["r3mem", "export", *map(str, arguments)])
    command.main()


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        export(monkeypatch, *arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_the_last_checkpoint_is_what_the_run_saved(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export(monkeypatch, run / "checkpoints" / "last.ckpt", "--out", tmp_path / "out")
    assert f"R3Mem.from_pretrained('{tmp_path / 'out'}')" in capsys.readouterr().out
    for name in ("r3mem.json", "r3mem.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (run / "model" / name).read_bytes()
    text = "lorem ipsum dolor sit amet, more than a segment"
    model = R3Mem.from_pretrained(tmp_path / "out")
    assert model.hierarchy.segment_tokens == 16
    assert model.recall(model.retain(text)) == text


def test_an_earlier_checkpoint_is_another_model(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "taken-away.ckpt"
    elsewhere.write_bytes((run / "checkpoints" / "step1.ckpt").read_bytes())
    export(monkeypatch, elsewhere, "--config", run / "config.yaml", "--out", tmp_path / "out")
    first, last = (load_file(folder / "r3mem.safetensors") for folder in (tmp_path / "out", run / "model"))
    assert first.keys() == last.keys() and any(not torch.equal(first[name], last[name]) for name in first)


def test_settings_of_an_earlier_version(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They name arguments that are gone: those that did nothing are no hindrance."""
    last, path = run / "checkpoints" / "last.ckpt", tmp_path / "config.yaml"
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (binding,) = settings["model"]["decoder"]["init_args"]["couplings"]
    settings["model"]["prior"], binding["init_args"]["trainable"] = None, False
    settings["model"]["objective"] = {"forward": {"weight": 1.0, "warmup_steps": 0}}
    # What training began with may be gone by now.
    settings["model"]["start_from"] = str(tmp_path / "gone")
    path.write_text(yaml.safe_dump(settings))
    export(monkeypatch, last, "--config", path, "--out", tmp_path / "out")
    first, second = (load_file(folder / "r3mem.safetensors") for folder in (tmp_path / "out", run / "model"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    binding["init_args"]["trainable"] = True
    path.write_text(yaml.safe_dump(settings))
    told = refused(monkeypatch, capsys, last, "--config", path, "--out", tmp_path / "more")
    assert "PositionBinding was saved with trainable True, which this version no longer has" in told


def test_wrong_files_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, last = ("--out", tmp_path / "out"), run / "checkpoints" / "last.ckpt"
    (tmp_path / "garbage.ckpt").write_bytes(b"no checkpoint")
    (tmp_path / "half.ckpt").write_bytes(last.read_bytes()[:2000])
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    (tmp_path / "alone.ckpt").write_bytes(last.read_bytes())
    for path, reason in (
        (run, "is a folder: give the checkpoint itself"),
        (tmp_path / "missing.ckpt", "no such file"),
        (tmp_path / "garbage.ckpt", "is not whole"),
        (tmp_path / "half.ckpt", "is not whole"),
        (tmp_path / "other.ckpt", "lacks state_dict"),
        (tmp_path / "alone.ckpt", "with --config"),
    ):
        assert reason in refused(monkeypatch, capsys, path, *out)
    settings = ("--config", run / "config.yaml")
    assert "has r3mem format none" in refused(monkeypatch, capsys, tmp_path / "foreign.ckpt", *settings, *out)
    assert not (tmp_path / "out").exists()


def test_wrong_settings_are_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, last = ("--out", tmp_path / "out"), run / "checkpoints" / "last.ckpt"
    settings = yaml.safe_load((run / "config.yaml").read_text())
    settings["model"]["backbone"]["init_args"]["lora_rank"] = 2
    path = tmp_path / "config.yaml"
    for text, reason in (
        (yaml.safe_dump(settings), "model.backbone.init_args.lora_rank is 2 here, 4 in the checkpoint"),
        ("trainer: {}", "has no model"),
        ("model: {backbone: 3}", "does not describe a model"),
        ("a: [", "is not YAML"),
    ):
        path.write_text(text)
        assert reason in refused(monkeypatch, capsys, last, "--config", path, *out)
    path.unlink()
    assert "no such file" in refused(monkeypatch, capsys, last, "--config", path, *out)
    assert not (tmp_path / "out").exists()
