"""The examples of docs/hierarchy.md are run as they are printed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser
from transformers import PreTrainedTokenizerFast

from r3mem.hierarchy import Document, Hierarchy
from tests.test_docs import blocks

PAGE = "docs/hierarchy.md"


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for block in blocks(PAGE, "python"):
        name = re.match(r"# (\S+\.py)\n", block)
        assert name is not None, f"an example does not say which file it is: {block[:60]!r}"
        (tmp_path / name[1]).write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))
    importlib.invalidate_caches()
    return tmp_path


def test_the_example_segmenter_passes_its_battery(examples: Path, pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(
        str(examples / "test_my_segmenters.py"), "-q", "-p", "no:cacheprovider", "-p", "tests.conftest",
        f"--rootdir={examples}",
    )  # fmt: skip
    outcome = result.parseoutcomes()
    assert outcome.get("passed", 0) >= 9 and not outcome.get("failed") and not outcome.get("errors")


def test_the_example_segmenter_cuts_at_headings(examples: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    document = Document.of("# A\nwords\n## B\nwords\n### C\nwords\n", byte_tokenizer)
    headings = importlib.import_module("my_segmenters").Headings()
    assert headings.cut(document, 0, len(document.text), 1) == [document.text.index("## B")]


def test_the_example_tree_is_shown(
    examples: Path, byte_tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture[str]
) -> None:
    importlib.import_module("tree").show("Ann met Bob in Rome.", byte_tokenizer)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "['A title'] None" in lines[0] and "Rome" in lines[2] and lines[2].endswith("1")


def test_the_example_levels_are_a_hierarchy() -> None:
    (block,) = blocks(PAGE, "yaml")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--hierarchy", type=Hierarchy)
    hierarchy = parser.instantiate_classes(parser.parse_object(yaml.safe_load(block))).hierarchy
    assert hierarchy.ratios == [16, 8] and hierarchy.level_names == ["paragraph", "entity"]
