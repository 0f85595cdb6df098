"""The examples of the documentation are run as they are printed."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from benchmarks.compare.synthetic.grid import Grid
from benchmarks.compare.tasks import SYNTHETIC_TASKS, TEXT_TASKS
from lightning_modules.memory_module import MemoryModule
from r3mem import Backbone, R3Mem
from r3mem.compressors import EdgePool, MeanPool
from r3mem.hierarchy import BlankLines, Flat, Level, MultiLevel
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.tiny_models import FAMILIES, RATIO, SEGMENT, WIDTH, tiny_model

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
#: Folders whose files pages name.
SHIPPED = ("r3mem", "lightning_modules", "datamodules", "benchmarks", "configs", "examples", "tests")
#: Files that are a reader's own, that a run writes, that the rules forbid, that had another name once, or placeholders.
NOT_SHIPPED = re.compile(
    r"\bmy_\w+\.py$|\btest_my_\w+\.py$|^search_trees\.py$|^(?:run|config)\.yaml$|^(?:utils|helpers|common)\.py$"
    r"|^(?:compare|retention_trained)\.py$|\bNAME\."
)


def blocks(page: str, language: str) -> list[str]:
    """Fenced code of a page."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def test_what_sources_and_pages_refer_to_is_shipped() -> None:
    cited: dict[str, list[str]] = {}
    for package in ("r3mem", "lightning_modules", "datamodules", "benchmarks", "configs", "docs", "tests"):
        for path in (ROOT / package).rglob("*"):
            if path.suffix in (".py", ".md", ".yaml") and path != Path(__file__):
                for name in re.findall(r"docs/\w+\.md|\b[A-Z]{3,}\.md|\bDESIGN\b", path.read_text(encoding="utf-8")):
                    cited.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {"docs/method.md", "docs/hierarchy.md", "LOG.md"} <= set(cited)
    lost = {n: w for n, w in cited.items() if not any((ROOT / folder / n).is_file() for folder in ("", "benchmarks"))}
    assert lost == {}


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that docs/extend.md tells its reader to write."""
    for block in blocks("docs/extend.md", "python"):
        name = re.match(r"# (\S+\.py)\n", block)
        assert name is not None, f"an example does not say which file it is: {block[:60]!r}"
        path = tmp_path / Path(name[1]).name
        path.write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return tmp_path


@pytest.fixture(scope="module")
def families() -> None:
    """Modules that a run inside a test imports first are taken away after it: those of all backbones are imported."""
    for family in FAMILIES:
        tiny_model(family)


@pytest.mark.usefixtures("backbone_folder", "families")
@pytest.mark.parametrize("seam", ["couplings", "compressors", "scorers", "terms", "hierarchies"])
def test_the_examples_pass_their_batteries(seam: str, examples: Path, pytester: pytest.Pytester) -> None:
    file = str(examples / f"test_my_{seam}.py")
    result = pytester.runpytest_inprocess(file, "-q", "-p", "no:cacheprovider", f"--rootdir={examples}")
    outcome = result.parseoutcomes()
    assert outcome.get("passed", 0) > 10 and not outcome.get("failed") and not outcome.get("errors")


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*isinstance.treespec")
def test_the_example_data_module_is_trained_on(
    examples: Path, tiny_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    (tmp_path / "lines.txt").write_text("Sir Launcelot drew his sword.\n\nNobody had asked him to.\n" * 6)
    data = importlib.import_module("my_data").Lines(str(tmp_path / "lines.txt"), 8, segments=3, batch_size=4)
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
    made = MemoryModule(tiny_backbone(), MeanPool(WIDTH, RATIO, write_layer=2, read_layer=1), stack)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, default_root_dir=tmp_path, **quiet)
    trainer.fit(made, datamodule=data)
    assert trainer.global_step == 3 and trainer.logged_metrics["train/loss"] > 0
    assert made.data_side.segment_tokens == 8 == made.model.hierarchy.segment_tokens
    batch = data.collate([list(range(20)), list(range(30)), [1]])
    assert batch["lengths_BT"].tolist() == [[8, 8, 4], [8, 8, 8], [1, 0, 0]]
    assert batch["ids_BTN"][1].flatten().tolist() == list(range(24))


@pytest.mark.parametrize(
    "module, kind, options",
    [("my_compressors", "LastToken", {"write_layer": 2, "read_layer": 1}), ("my_key_values", "Milestones", {})],
)
def test_the_example_compressor_retains_and_recalls(
    module: str, kind: str, options: dict[str, int], examples: Path, tiny_backbone: Callable[..., Backbone]
) -> None:
    compressor = importlib.import_module(module).__dict__[kind](WIDTH, RATIO, **options)
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
    model = R3Mem(tiny_backbone(), compressor, stack, Flat(SEGMENT))
    ids = torch.randint(0, 200, (3 * SEGMENT + 1,), generator=torch.Generator().manual_seed(0)).tolist()
    memory = model.retain(ids)
    assert memory.n_slots < len(ids) and model.recall_ids(memory) == ids


def test_the_example_decoder_recalls_by_corrections_alone(
    examples: Path, tiny_backbone: Callable[..., Backbone]
) -> None:
    decoder = importlib.import_module("my_decoders").OneToken(RATIO, token=7)
    model = R3Mem(tiny_backbone(), EdgePool(WIDTH, RATIO), decoder, Flat(SEGMENT)).eval()
    ids = torch.randint(0, 200, (2 * SEGMENT + 1,), generator=torch.Generator().manual_seed(0)).tolist()
    memory = model.retain(ids)
    assert model.recall_ids(memory) == ids and sum(memory.wrong) == sum(token != 7 for token in ids)


def test_the_example_task_is_one_and_files_of_the_folder_are_the_tasks(examples: Path) -> None:
    task = importlib.import_module("my_copy").TASK
    assert isinstance(task, Grid) and len(task.points((4,), (2,), (4,))) == 3
    files = {path.stem for path in (ROOT / "benchmarks" / "compare" / "tasks").glob("[!_]*.py")}
    assert files == {*SYNTHETIC_TASKS, *TEXT_TASKS}


def test_the_search_that_is_shown_gives_back_places_of_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_backbone: Callable[..., Backbone]
) -> None:
    (block,) = [b for b in blocks("docs/python.md", "python") if b.startswith("# search.py")]
    (tmp_path / "search_example.py").write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    levels = [Level("document", BlankLines(), 64, ratio=8), Level("paragraph", BlankLines(), 32, ratio=RATIO)]
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
    model = R3Mem(tiny_backbone(), EdgePool(WIDTH, RATIO), stack, MultiLevel(levels))
    texts = ["One paragraph.\n\nAnother paragraph.", "A third."]
    found = importlib.import_module("search_example").answer_places(model, texts, "Which?")
    assert len(found) == 3 and all(any(place in text for text in texts) for place in found)


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_of_the_project_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / page).read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (ROOT / page).parent.joinpath(t).exists()]
    assert not missing


def test_readme_names_only_targets_that_exist() -> None:
    named = set(re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named and named <= known


@pytest.mark.parametrize("page", PAGES)
def test_sources_and_settings_that_a_page_names_are_shipped(page: str) -> None:
    """By a whole path, or by the end of one."""
    named = set(re.findall(r"[\w./-]*\w\.(?:py|yaml)\b", (ROOT / page).read_text(encoding="utf-8")))
    shipped = {f"/{path.relative_to(ROOT).as_posix()}" for folder in SHIPPED for path in (ROOT / folder).rglob("*.*")}
    asked = {name for name in named if not (NOT_SHIPPED.search(name) or (ROOT / page).parent.joinpath(name).is_file())}
    assert [name for name in sorted(asked) if not any(path.endswith(f"/{name}") for path in shipped)] == []
