"""``r3mem predict`` on whole documents: a file a document, made once, searched and recalled by the exported model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.cli import main
from r3mem import InputError, Memory, R3Mem
from r3mem.hierarchy import Document
from r3mem.memory.tree_memory import TreeMemory
from tests.full_disk import full_disk
from tests.test_docs import blocks
from tests.tiny_run import config, tiny

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
TREES = """
model:
  hierarchy:
    class_path: r3mem.hierarchy.{kind}
    init_args:
      entities: {{class_path: r3mem.hierarchy.EntityFinder, init_args: {{model: rules, cache: false}}}}
      levels:
        - {{name: document, segmenter: {{class_path: r3mem.hierarchy.BlankLines}}, tokens: 64, ratio: 8}}
        - {{name: paragraph, segmenter: {{class_path: r3mem.hierarchy.BlankLines}}, tokens: 32, ratio: 4}}
        - {{name: entity, segmenter: {{class_path: r3mem.hierarchy.FixedWindows}}, tokens: 12, ratio: 2}}
  objective: {{terms: [{{class_path: r3mem.objectives.QueryNLL}}]}}
data:
  class_path: datamodules.hierarchical.HierarchyDataModule
  init_args:
    train: {train}
    fields: {{title: title}}
    batch_size: 2
    # Two documents of the shortest fit into a batch; others are compressed alone.
    predict_tokens: 60
"""
TEXTS = [
    f"Tale {i}.\n\n" + "\n\n".join(f"In Rome {j} and {i}, naïve 漢字." for j in range(i % 4 + 1)) for i in range(9)
]
SHORT = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0"]


def arguments(tmp_path: Path, backbone: Path, name: str, kind: str = "Refined") -> list[str]:
    """Those of a small run on trees that logs to a folder of that name."""
    train, overlay = tmp_path / "train.jsonl", tmp_path / f"{kind}.yaml"
    train.write_text("".join(json.dumps({"title": f"Tale {i}", "text": t}) + "\n" for i, t in enumerate(TEXTS)))
    overlay.write_text(TREES.format(kind=kind, train=train))
    sizes = [size for size in tiny(backbone, train, tmp_path / name) if not size.startswith("--data.")]
    return [
        *config("model/virtual_tokens", "trainer/cpu"), f"--config={overlay}", *sizes, "--trainer.accelerator=cpu",
        "--model.decoder.init_args.couplings.init_args.share=0.5",
    ]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, backbone_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``run("fit", "a", ...)`` runs a subcommand in a folder of that name and gives the folder."""
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))

    def start(command: str, name: str, *given: str, kind: str = "Refined") -> Path:
        main([command, *arguments(tmp_path, backbone_folder, name, kind), *given])
        return tmp_path / name

    return start


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Titles of the documents that were compressed, in order."""
    titles: list[str] = []
    inner = R3Mem.retain_tree

    def retain_tree(model: R3Mem, documents: list[Document]) -> list[TreeMemory]:
        titles.extend(document.title for document in documents)
        return inner(model, documents)

    monkeypatch.setattr(R3Mem, "retain_tree", retain_tree)
    return titles


def index_of(memories: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (memories / "index.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["Refined", pytest.param("MultiLevel", marks=pytest.mark.slow)])
def test_an_interrupted_prediction_goes_on_and_its_trees_are_searched(
    run: Callable[..., Path], compressed: list[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    fitted = run("fit", "fit", *SHORT, kind=kind)
    options = [f"--ckpt_path={fitted}/checkpoints/last.ckpt"]
    inner, saved = TreeMemory.save, []

    def stop_at_the_fifth(memory: TreeMemory, path: Path) -> None:
        saved.append(path)
        if len(saved) == 5:
            raise SystemError("pulled the plug")
        inner(memory, path)

    with monkeypatch.context() as patch:
        patch.setattr(TreeMemory, "save", stop_at_the_fifth)
        with pytest.raises(SystemError, match="pulled the plug"):
            run("predict", "predicted", *options, kind=kind)
    memories = fitted.parent / "predicted" / "memories"
    before = {path.name: path.stat().st_mtime_ns for path in memories.glob("*.safetensors")}
    assert len(before) == 4 and not (memories / "index.jsonl").exists()

    compressed.clear()
    run("predict", "predicted", *options, kind=kind)
    assert compressed == [f"Tale {i}" for i in range(4, 9)]
    lines = index_of(memories)
    files = [str(line["file"]) for line in lines]
    assert {path.name for path in memories.iterdir()} == {"index.jsonl", "model.json", *files}
    assert [line["document"] for line in lines] == list(range(9))
    assert str(lines[2]["origin"]).endswith("train.jsonl:3")
    assert all((memories / name).stat().st_mtime_ns == written for name, written in before.items())

    model = R3Mem.from_pretrained(fitted / "model")
    trees = [TreeMemory.load(memories / str(line["file"])) for line in lines]
    for i, (tree, text) in enumerate(zip(trees, TEXTS, strict=True)):
        assert tree.title == f"Tale {i}" and len(tree.levels) == 3 and model.recall(tree) == text
    names: dict[str, Any] = {}
    (example,) = [block for block in blocks("docs/hierarchy.md", "python") if block.startswith("# search_trees.py")]
    exec(example, names)
    found = names["places"](model, memories, "Rome")
    texts = {line["origin"]: text for line, text in zip(lines, TEXTS, strict=True)}
    assert len(found) == 3 and all(place and place in texts[origin] for origin, place in found)
    documents = [Document.of(text, model.backbone.tokenizer) for text in TEXTS]
    assert [tree.nodes for tree in trees] == [tree.nodes for tree in model.retain_tree(documents)]
    with pytest.raises(InputError, match=r"use TreeMemory\.load"):
        Memory.load(memories / str(lines[0]["file"]))


def test_plain_memories_are_made_again_and_those_of_another_model_refused(
    run: Callable[..., Path], compressed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same documents, first as streams of segments, then whole, into the same folder under the same names."""
    folder = tmp_path / "run" / "memories"
    run("predict", "run", "--data=datamodules.documents.DocumentsDataModule", f"--data.train={tmp_path}/train.jsonl")
    names = {path.name for path in folder.glob("*.safetensors")}
    assert len(names) == 9 and compressed == []
    assert all(Memory.load(folder / name).n_tokens for name in names)

    run("predict", "run")
    assert len(compressed) == 9 and {path.name for path in folder.glob("*.safetensors")} == names
    before = {name: (folder / name).read_bytes() for name in names}
    # Another stack, other levels; the third differs in its trained weights alone.
    for other in (
        "--model.decoder.init_args.couplings.init_args.share=0.25",
        "--model.hierarchy.init_args.levels=null",
        "--seed_everything=7",
    ):
        with pytest.raises(SystemExit):
            run("predict", "run", other)
        last = capsys.readouterr().err.splitlines()[-1]
        assert "holds memories of another model" in last and str(folder) in last
    assert len(compressed) == 9 and {name: (folder / name).read_bytes() for name in names} == before


def test_a_full_disk_is_told_in_one_line(
    run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk(10_000), pytest.raises(SystemExit):
        run("predict", "run")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("r3mem: ") and "free some space" in last and "/memories/" in last
    names = [path.name for path in (tmp_path / "run" / "memories").glob("*.safetensors")]
    assert 0 < len(names) < 9 and all(TreeMemory.load(tmp_path / "run" / "memories" / name).levels for name in names)


@pytest.mark.slow
def test_two_processes_write_every_document_once(
    tmp_path: Path, backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))
    given = [*arguments(tmp_path, backbone_folder, "run"), *config("trainer/ddp"), "--trainer.devices=2"]
    command = [sys.executable, "-m", "lightning_modules.cli", "predict", *given, "--trainer.accelerator=cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    memories = tmp_path / "run" / "memories"
    lines = index_of(memories)
    assert [line["document"] for line in lines] == list(range(9)) and len(list(memories.iterdir())) == 10
    for line, text in zip(lines, TEXTS, strict=True):
        assert TreeMemory.load(memories / str(line["file"])).n_tokens == len(text.encode())
