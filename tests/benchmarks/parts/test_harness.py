"""A result file says how it was made, in words that make it again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.parts.harness import ROOT, write


@pytest.mark.parametrize(
    "script, called",
    [
        ("benchmarks/claims/recall.py", "-m benchmarks.claims.recall"),
        ("benchmarks/compare/__main__.py", "-m benchmarks.compare"),
        ("examples/quickstart.py", "examples/quickstart.py"),
    ],
)
def test_the_command_is_one_that_can_be_called(
    script: str, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(ROOT / script), "--text", "a b.txt"])
    write(tmp_path / "made.json", 3, [{"value": 1}])
    made = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    assert made["command"] == f"python {called} --text 'a b.txt'"
    assert (made["seed"], made["rows"]) == (3, [{"value": 1}])


@pytest.mark.parametrize("inside", [False, True])
def test_a_result_file_elsewhere_is_told_by_its_name(
    inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.parts.harness.ROOT", tmp_path / "root")
    path = (tmp_path / "root" if inside else tmp_path) / "results" / "made.json"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", ["script.py", "--json", str(path)])
    write(path, 0, [])
    made = json.loads(path.read_text(encoding="utf-8"))
    assert made["command"] == f"python script.py --json {'results/made.json' if inside else 'made.json'}"


def test_the_root_is_that_of_the_repository() -> None:
    assert (ROOT / "benchmarks" / "parts" / "harness.py").is_file() and (ROOT / "pyproject.toml").is_file()
