"""The command line from end to end: a stopped run goes on as if nothing had happened, memories hold their texts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Union

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from lightning_modules import cli
from lightning_modules.cli import main
from r3mem import Memory, R3Mem
from tests.tiny_models import tiny_model
from tests.tiny_run import StopAfter, config, logged, tiny, write_documents

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:.*split is empty")
FILES = ("model/virtual_tokens", "data/files", "trainer/cpu")
STOP = f"--trainer.callbacks={StopAfter.__module__}.StopAfter"


@pytest.fixture
def run(tmp_path: Path, backbone_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``run("fit", "a", ...)`` runs a subcommand in a folder of that name and gives the folder."""
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))
    texts = write_documents(tmp_path)

    def start(command: str, name: str, *arguments: str, files: tuple[str, ...] = FILES) -> Path:
        folder = tmp_path / name
        sizes = tiny(backbone_folder, texts, folder)
        if "model/in_context_autoencoder" in files:
            sizes = [size for size in sizes if not size.split("=")[0].endswith("_layer")]
        main([command, *config(*files), *sizes, *arguments])
        return folder

    return start


def refused(capsys: pytest.CaptureFixture[str], start: Callable[[], object]) -> str:
    """The one line that a refused run leaves."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        start()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("r3mem: ")]
    return line


@pytest.mark.parametrize(
    "mode, stop",
    [
        ("stream", 3),
        ("window", 8),
        pytest.param("stream", 8, marks=pytest.mark.slow),
        pytest.param("window", 3, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_step_for_step(run: Callable[..., Path], mode: str, stop: int) -> None:
    options = [
        f"--data.init_args.mode={mode}",
        "--trainer.max_steps=11",
        "--checkpoint.every_n_train_steps=1",
        "--trainer.val_check_interval=4",
        # Both draw random numbers in every step.
        "--model.backbone.init_args.lora_dropout=0.1",
        "--model.objective.terms+={class_path: r3mem.objectives.BackwardCE, init_args: {weight: 0.5}}",
    ]
    keys = ("train/loss", "train/forward", "train/backward", "val/nll_memory")
    whole = run("fit", "whole", *options)
    stopped = run("fit", "stopped", *options, STOP, f"--trainer.callbacks.init_args.steps={stop}")
    before = {key: logged(stopped, key) for key in keys}
    run("fit", "stopped", *options, f"--ckpt_path={stopped}/checkpoints/last.ckpt")
    after = {key: logged(stopped, key) for key in keys}
    assert list(before["train/loss"]) == list(range(stop)) and list(after["train/loss"]) == list(range(stop, 11))
    for key in keys:
        expected = logged(whole, key)
        assert len(expected) == (2 if key.startswith("val") else 11) and len(set(expected.values())) > 1
        # A run that stops validates once more.
        assert ({**before[key], **after[key]}).items() >= expected.items()
    weights = [load_file(folder / "model" / "r3mem.safetensors") for folder in (whole, stopped)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])
    tested = [
        run("test", f"test-{folder.name}", *options, f"--ckpt_path={folder}/checkpoints/last.ckpt")
        for folder in (whole, stopped)
    ]
    found = [(folder / "metrics.csv").read_text() for folder in tested]
    assert "test/nll_memory" in found[0] and found[0] == found[1]


def test_a_rerun_in_the_same_folder_writes_its_settings_again(run: Callable[..., Path]) -> None:
    short = ["--trainer.max_steps=1", "--model.calibrate=false", "--trainer.limit_val_batches=0"]
    run("fit", "run", *short)
    folder = run("fit", "run", *short, "--model.warmup_steps=7")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["model"]["warmup_steps"] == 7
    assert "${" not in (folder / "config.yaml").read_text()


def test_prediction_writes_memories_that_hold_their_texts(
    run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = run("fit", "fit", "--trainer.max_steps=2", "--trainer.limit_val_batches=0")
    options = [f"--ckpt_path={fitted}/checkpoints/last.ckpt", "--data.init_args.segments_per_step=1"]
    cut_off = run("predict", "predicted", *options, "--trainer.limit_predict_batches=4")
    some = {path.name: path.stat().st_mtime_ns for path in (cut_off / "memories").glob("*.safetensors")}
    folder = run("predict", "predicted", *options) / "memories"
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    assert 0 < len(some) < len(lines) == 24
    assert {path.name for path in folder.glob("*")} == {"index.jsonl", "model.json", *(line["file"] for line in lines)}
    assert all((folder / name).stat().st_mtime_ns == written for name, written in some.items())
    model = R3Mem.from_pretrained(fitted / "model")
    for line in lines:
        memory = Memory.load(folder / line["file"])
        text = Path(line["origin"]).read_text()
        assert model.recall(memory) == text
        # The same as one call on the whole text: segments go on from batch to batch.
        assert torch.equal(memory.lengths_T, model.retain(text).lengths_T)

    other = run(
        "fit", "other", "--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--model.compressor.init_args.ratio=2"
    )
    with pytest.raises(SystemExit):
        run(
            "predict", "predicted", f"--ckpt_path={other}/checkpoints/last.ckpt", "--model.compressor.init_args.ratio=2"
        )
    assert "holds memories of another model" in capsys.readouterr().err
    assert Memory.load(folder / lines[0]["file"]).ratio == 4


def test_texts_that_a_trained_model_reconstructs_come_back_from_files(
    run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = ("model/in_context_autoencoder", "data/files", "trainer/cpu", "experiment/autoregressive_decoder")
    slots = "--model.compressor.init_args.slots=8"
    fitted = run("fit", "fit", "--trainer.max_steps=3", "--trainer.val_check_interval=3", slots, files=files)
    assert logged(fitted, "train/autoencode") and logged(fitted, "val/recall_token_accuracy")
    options = [f"--ckpt_path={fitted}/checkpoints/last.ckpt", "--data.init_args.segments_per_step=1", slots]
    folder = run("predict", "predicted", *options, "--trainer.limit_predict_batches=6", files=files) / "memories"
    model = R3Mem.from_pretrained(fitted / "model")
    lines = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    assert lines
    for line in lines:
        memory = Memory.load(folder / line["file"])
        assert model.recall(memory) == Path(line["origin"]).read_text()
        # Three steps teach nothing; the corrections hold the words.
        assert sum(memory.wrong) > 0 and memory.correction_bits > 0
    refusal = refused(
        capsys, lambda: run("fit", "no", "--model.objective.terms+=r3mem.objectives.Cycle", slots, files=files)
    )
    assert "weight for cycle" in refusal and "Autoencode" in refusal


def test_the_exported_model_is_the_trained_one(run: Callable[..., Path]) -> None:
    folder = run("fit", "run", "--trainer.max_steps=3", "--trainer.limit_val_batches=0")
    model = R3Mem.from_pretrained(folder / "model")
    assert model.ratio == 4 and model.hierarchy.segment_tokens == 16
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    own = load_file(folder / "model" / "r3mem.safetensors")
    assert set(saved["state_dict"]) == set(own) and all(
        torch.equal(saved["state_dict"][name], own[name]) for name in own
    )
    assert not any("embed_tokens" in name for name in own)
    assert model.recall(model.retain("lorem ipsum")) == "lorem ipsum"


@pytest.mark.filterwarnings("ignore")
def test_one_batch_is_not_all_of_them() -> None:
    parser = LightningArgumentParser()
    parser.add_argument("--batches", type=Union[float, int, None])  # noqa: UP007 - the order is the point
    parser.add_argument("--share", type=Union[float, None])  # noqa: UP007
    assert isinstance(parser.parse_args(["--batches=1"]).batches, float)
    cli._whole_numbers_first(parser)
    found = parser.parse_args(["--batches=1", "--share=1"])
    assert isinstance(found.batches, int) and isinstance(found.share, float)
    assert parser.parse_args(["--batches=0.5"]).batches == 0.5 and parser.parse_args(["--batches=null"]).batches is None


@pytest.mark.parametrize(
    "wrong, says",
    [
        ("model:\n  compressor:\n    init_args:\n      ratoi: 8\n", "did you mean 'ratio'?"),
        ("trainer:\n  max_stepz: 8\n", "did you mean 'max_steps'?"),
        ("model:\n  objective:\n    trems: []\n", "did you mean 'terms'?"),
        ("model:\n  objective:\n    terms: []\n", "give at least one a weight above 0"),
        (
            "model:\n  objective: {terms: [{class_path: ForwardNLL, init_args: {weight: -1}}]}\n",
            "weight -1.0 of ForwardNLL",
        ),
        (
            "model:\n  hierarchy: {class_path: r3mem.hierarchy.Flat, init_args: {segment_tokens: 0}}\n",
            "at least one token",
        ),
        ("model:\n  objective:\n    kl:\n      weight: 1\n", "class_path: r3mem.objectives.FullTextKL, init_args"),
        ("model:\n  objective: {forward: {weight: 0.0}, query: {weight: 1.0}}\n", "r3mem.objectives.ForwardNLL"),
        ("data:\n  init_args:\n    segment_tokenz: 1\n", "did you mean 'segment_tokens'?"),
        ("model:\n  warmup_steps: many\n", "Expected a <class 'int'>"),
        ("model:\n  warmup_steps: ${model.nothing.there}\n", "nothing.there'"),
        ("model: [\n", "parsing"),
        ("model:\n  bptt_segments: 0\n", "at least 1 segment"),
        ("model:\n  compressor:\n    init_args:\n      ratio: 9\n", "use a ratio of at most 8"),
        ("model:\n  backbone:\n    init_args:\n      name: /not/there\n", "no such folder"),
        ("data:\n  init_args:\n    train: /not/there.txt\n", "no such file"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, says: str
) -> None:
    (tmp_path / "wrong.yaml").write_text(wrong)
    line = refused(capsys, lambda: run("fit", "run", f"--config={tmp_path / 'wrong.yaml'}"))
    assert says in line


def test_missing_files_are_refused_in_one_line(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "/not/there.yaml" in refused(capsys, lambda: run("fit", "run", "--config=/not/there.yaml"))
    assert "/not/there.ckpt: no such file" in refused(capsys, lambda: run("fit", "run", "--ckpt_path=/not/there.ckpt"))
    assert "/tmp: is a folder" in refused(capsys, lambda: run("fit", "run", "--ckpt_path=/tmp"))


def test_checkpoints_that_do_not_fit_are_refused(
    run: Callable[..., Path],
    tmp_path: Path,
    byte_tokenizer: PreTrainedTokenizerFast,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = run("fit", "run", "--trainer.max_steps=1", "--model.calibrate=false", "--trainer.limit_val_batches=0")
    last = folder / "checkpoints" / "last.ckpt"

    stranger = tmp_path / "stranger"
    tiny_model(seed=1).save_pretrained(stranger)
    byte_tokenizer.save_pretrained(stranger)
    other = [f"--ckpt_path={last}", f"--model.backbone.init_args.name={stranger}"]
    for command in ("fit", "predict"):
        line = refused(capsys, lambda command=command: run(command, "refused", *other))
        assert "belongs to backbone" in line and "set model.backbone.init_args.name" in line

    smaller = [f"--ckpt_path={last}", "--model.backbone.init_args.lora_rank=2"]
    line = refused(capsys, lambda: run("test", "refused", *smaller))
    assert "model.backbone.init_args.lora_rank is 2 here, 4 in the checkpoint" in line

    rows = [f"--ckpt_path={last}", "--data.init_args.batch_size=3", "--trainer.max_steps=2"]
    assert "set batch_size" in refused(capsys, lambda: run("fit", "refused", *rows))

    for change, says in (({"format": 99}, "r3mem format 99"), (None, "r3mem format none")):
        saved = torch.load(last, weights_only=True)
        saved["r3mem"] = saved["r3mem"] | change if change else None
        torch.save(saved, tmp_path / "changed.ckpt")
        line = refused(capsys, lambda: run("test", "refused", f"--ckpt_path={tmp_path / 'changed.ckpt'}"))
        assert says in line


@pytest.mark.slow
def test_two_processes_keep_the_rows_of_both(tmp_path: Path, backbone_folder: Path) -> None:
    """A batch whose rows all begin anew trains no reader; DDP then still has a gradient of every parameter."""
    texts, folder = write_documents(tmp_path), tmp_path / "run"
    arguments = [
        *config("model/virtual_tokens", "data/files", "trainer/ddp"), *tiny(backbone_folder, texts, folder),
        "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.max_steps=4", "--trainer.limit_val_batches=1",
        "--data.init_args.segments_per_step=1", "--checkpoint.every_n_train_steps=1", "--data.init_args.batch_size=2",
    ]  # fmt: skip
    command = [sys.executable, "-m", "lightning_modules.cli", "fit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    slots_BKD, lengths_B, ratio, segment_BK = saved["r3mem"]["carried"]
    assert slots_BKD.shape[0] == len(lengths_B) == 4 and ratio == 4 and segment_BK is None
    assert (folder / "model" / "r3mem.json").is_file()
