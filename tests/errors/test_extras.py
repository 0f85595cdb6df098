"""The light core: what works where no extra is installed, and what is said where one is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import r3mem
from r3mem.errors import ConfigError, extras
from r3mem.errors.extras import EXTRAS, check_installed, importing

PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"
#: Begins a process in which no package of any extra is installed.
WITHOUT_EXTRAS = f"""
import sys

GONE = {sorted({package for packages in EXTRAS.values() for package in packages})}

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in GONE else self.finder.find_spec(name, path, target)

    def find_distributions(self, context):
        if (context.name or "").replace("-", "_") in GONE or not hasattr(self.finder, "find_distributions"):
            return iter(())
        return self.finder.find_distributions(context)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
CORE = """
from pathlib import Path
from r3mem import Backbone, Memory, R3Mem
from r3mem.compressors import SelectedKeyValues
from r3mem.hierarchy import FixedWindows, Flat, Level, MultiLevel
from r3mem.search import QueryLikelihood, TreeSearch
import r3mem.metrics
import lightning_modules.memory_module, lightning_modules.callbacks, lightning_modules.strategies
import datamodules

folder, out = sys.argv[1], Path(sys.argv[2])
backbone = Backbone(folder, lora_rank=0)
model = R3Mem(backbone, SelectedKeyValues(backbone.width, 4), hierarchy=Flat(16)).eval()
text = "Sir Launcelot forthwith drew his sword, and spake."
model.retain(text).save(out / "memory.safetensors")
memory = Memory.load(out / "memory.safetensors")
assert model.recall(memory) == text
assert isinstance(model.generate("Sir", memory, max_new_tokens=4), str)
search = QueryLikelihood(model)
search.index([text, "Another text altogether."])
assert len(search.scores("a sword")) == 2
levels = [Level("document", FixedWindows(), 32, 8), Level("part", FixedWindows(), 16, 4)]
levelled = R3Mem(backbone, SelectedKeyValues(backbone.width, 4), hierarchy=MultiLevel(levels)).eval()
tree = levelled.retain_tree(text)
hits = TreeSearch(levelled, beam=2).search([tree], "a sword", k=1)
assert text.startswith(levelled.recall(tree, 0)) and len(hits) == 1
"""


def in_a_process(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What a new process says in which no extra is installed."""
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_EXTRAS + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_the_core_needs_no_extra(backbone_folder: Path, tmp_path: Path) -> None:
    done = in_a_process(CORE, backbone_folder, tmp_path)
    assert done.returncode == 0, done.stderr


MISSING = {
    "bm25": "from r3mem.search import BM25; BM25()",
    "datasets": "from datamodules.sources import open_source; next(open_source('hf://name').documents())",
    "deepspeed": "from lightning_modules.strategies import AdapterDeepSpeedStrategy; AdapterDeepSpeedStrategy()",
    "embeddings": "from r3mem.search import Embeddings; Embeddings()",
    "entities": "from r3mem.hierarchy.entity_pipeline import entity_pipeline; entity_pipeline('rules')",
    "quantised": "import torch; from r3mem.backbone.four_bit import four_bit_options; four_bit_options(torch.float32)",
    "report": "from lightning_modules.report.plots import _panels; _panels(None, ['a'], None).__enter__()",
    "serve": "from r3mem.serve import make_app",
    "store": "from r3mem.store import MemoryStore",
    "training": "from r3mem.errors.extras import check_installed; check_installed('training', 'r3mem fit')",
}


def test_each_extra_is_missed_by_name() -> None:
    assert set(MISSING) == set(EXTRAS)
    tries = "\n".join(
        f"try:\n    {code}\nexcept ConfigError as error:\n    print({extra!r}, error)"
        for extra, code in MISSING.items()
    )
    done = in_a_process(f"from r3mem import ConfigError\n{tries}")
    assert done.returncode == 0, done.stderr
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert set(told) == set(EXTRAS)
    for extra, message in told.items():
        absent = f"(No module named '{EXTRAS[extra][0]}')"
        assert " needs " in message and message.endswith(f"{absent}: pip install 'r3mem[{extra}]'")


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["fit", "--config", "some.yaml"], "training"),
        (["predict", "--config", "some.yaml"], "training"),
        (["export", "some.ckpt", "--out", "there"], "training"),
        (["report", "there"], "report"),
        (["serve", "--store", "there", "--user", "ann"], "serve"),
    ],
)
def test_the_command_says_in_a_line_what_to_install(arguments: list[str], extra: str) -> None:
    done = in_a_process("from lightning_modules.command import main\nmain(sys.argv[1:])", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    line = done.stderr.splitlines()
    assert len(line) == 1 and line[0].startswith("r3mem: r3mem ") and line[0].endswith(f"pip install 'r3mem[{extra}]'")


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["report", "--help"], ["export", "--help"], ["serve", "--help"]]
)
def test_help_needs_no_extra(arguments: list[str]) -> None:
    done = in_a_process("from lightning_modules.command import main\nmain(sys.argv[1:])", *arguments)
    assert done.returncode == 0 and done.stderr == ""


def test_a_package_that_is_not_there_and_one_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "EXTRAS", {"odd": ("no_such_package", "json")})
    with pytest.raises(ConfigError) as told:
        check_installed("odd", "this use")
    assert str(told.value) == (
        "this use needs no_such_package and json (No module named 'no_such_package'): pip install 'r3mem[odd]'"
    )
    with pytest.raises(ConfigError, match=r"this use needs .* \(too old\): pip install 'r3mem\[odd\]'"):
        with importing("odd", "this use"):
            raise ImportError("too old")


def test_nothing_is_said_where_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "EXTRAS", {"odd": ("json",)})
    check_installed("odd", "this use")
    with importing("odd", "this use"):
        import json
    assert json.loads("1") == 1


def test_the_list_is_that_of_pyproject() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    declared = project["optional-dependencies"]

    def names(requirements: list[str]) -> set[str]:
        cut = (r.split(";")[0].split(">")[0].split("[")[0].strip() for r in requirements)
        return {name.replace("-", "_") for name in cut}

    assert {extra: names(declared[extra]) for extra in EXTRAS} == {extra: set(p) for extra, p in EXTRAS.items()}
    assert set(declared) == {*EXTRAS, "all", "dev"}
    assert declared["all"] == [f"r3mem[{','.join(sorted(EXTRAS))}]"]
    assert declared["dev"][0] == f"r3mem[{','.join(sorted(set(EXTRAS) - {'quantised'}))}]"
    assert not names(project["dependencies"]) & {package for packages in EXTRAS.values() for package in packages}
    assert project["version"] == r3mem.__version__
