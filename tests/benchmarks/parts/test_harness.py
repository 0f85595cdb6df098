"""A result file says how it was made, in words that make it again; a source that is too short says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.parts.harness import ROOT, documents, write
from r3mem import Backbone, InputError


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


def test_a_source_that_has_no_more_says_so(
    text: Path, tiny_backbone: Callable[..., Backbone], capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, length = tiny_backbone(), len(text.read_text(encoding="utf-8"))
    (whole,) = documents(str(text), backbone, length)
    assert len(whole) == length and capsys.readouterr().out == ""
    assert documents(str(text), backbone, 2 * length) == [whole]
    said = " ".join(capsys.readouterr().out.split())
    assert f"1 documents, {length:,} tokens; asked for: {2 * length:,} tokens" in said
    assert documents(str(text), backbone, length, skip=10, most=1) == [whole[10:]]
    assert documents(str(text), backbone, 100, most=3) == [whole[:800]]
    assert "asked for: 3 documents" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match=f"no document of at least {length + 1} tokens"):
        documents(str(text), backbone, length, least=length + 1)
