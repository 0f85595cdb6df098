"""``r3mem report`` prints the table, writes the page and the plots, and fails where it should."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lightning_modules import command
from lightning_modules.report.comparison import Score
from lightning_modules.report.plots import _bars
from tests.lightning_modules.report.made_up import write_run


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["r3mem", "report", *map(str, arguments)])
    command.main()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for method, group, value in (("a", "ours", 0.6), ("b", "peer", 0.7), ("full_text", "reference", 1.0)):
        for seed in range(2):
            rows = {(pairs, ratio): value - 0.1 * seed for pairs in (4, 16) for ratio in (8, 16)}
            write_run(tmp_path / "runs", "copy", method, seed, rows, group=group)
    return tmp_path / "runs"


def test_page_and_plots(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, runs, "--out", tmp_path / "out", "--strict")
    assert "0.550 ± 0.071" in capsys.readouterr().out
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| a | ours | 0.550 ± 0.071 | 2 of 2 |" in page
    assert "- copy, all: b (peer) 0.650 ± 0.071, best of ours a 0.550 ± 0.071" in page
    assert "8 / 16" in page and '{"lr": 0.001, "steps": 10}' in page
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert {"quality-by-ratio.png", "quality-by-difficulty.png", "quality-by-train-seconds.png"} <= pictures
    # One length of history is no axis.
    assert "quality-by-segments.png" not in pictures
    assert all(f"({name})" in page for name in pictures)
    assert not list(runs.rglob("README.md"))


def test_bars_in_plots_reach_from_the_lowest_seed_to_the_highest() -> None:
    below, above = _bars([Score((0.0, 0.2, 1.0), 3), Score((0.1, 0.1, 0.1), 3), Score((0.5,), 3)]) or []
    assert below == pytest.approx([0.4, 0.0, 0.0]) and above == pytest.approx([0.6, 0.0, 0.0])
    assert min(below + above) >= 0 and _bars([Score((0.5,), 1)]) is None


def test_steps_to_solve_the_easiest_level_are_told_seed_by_seed(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, runs, "--out", tmp_path / "out")
    assert "solve" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    for name, steps in (("a-seed0", 79), ("a-seed1", None), ("b-seed0", None), ("b-seed1", 8)):
        (path,) = runs.rglob(f"{name}.json")
        content = json.loads(path.read_text(encoding="utf-8"))
        content["cost"]["solved_after"] = steps
        path.write_text(json.dumps(content), encoding="utf-8")
    run(monkeypatch, runs, "--out", tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header, _, *rows = page.split("and what it cost.\n\n")[1].split("\n\n")[0].splitlines()
    told = [[cell.strip() for cell in line.strip("|").split("|")][-1] for line in (header, *rows)]
    assert told == ["steps to solve the easiest level, by seed", "79 / never", "never / 8", ""]


def test_tokens_that_are_right_stand_beside_whole_answers(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in runs.rglob("a-seed*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for row in content["rows"]:
            row["free_running_accuracy"] = 0.9 if row["ratio"] == 8 else 0.8
        path.write_text(json.dumps(content), encoding="utf-8")
    run(monkeypatch, runs, "--out", tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    told = page.split("free_running_accuracy by ratio.\n\n")[1].split("\n\n")[0].splitlines()
    assert told[0] == "| method | ratio 8 | ratio 16 |"
    assert told[2:4] == ["| a | 0.900 ± 0.000 | 0.800 ± 0.000 |", "| b | missing | missing |"]
    # Rows have no such figure, and there is no table of it.
    assert "teacher_forced_accuracy" not in page


def test_minutes_of_all_runs_of_a_seed_are_told(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in [*runs.rglob("*-seed0.json"), runs / "copy" / "a-seed1.json"]:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["cost"]["wall_seconds"] = 90.0
        path.write_text(json.dumps(content), encoding="utf-8")
    run(monkeypatch, runs, "--out", tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    # Not of a seed of which a run does not tell it.
    assert "imports left out: 4.5 (seed 0).\n" in page


def test_strict_refuses_what_is_not_whole(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "copy" / "b-seed1.json").unlink()
    run(monkeypatch, runs)
    assert "Missing (1): copy/b-seed1." in capsys.readouterr().out
    assert "(1 of 2 seeds)" in (runs / "README.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, runs, "--strict")
    assert left.value.code == 2 and "copy/b-seed1" in capsys.readouterr().err


def test_an_error_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, tmp_path)
    assert left.value.code == 2 and capsys.readouterr().err.startswith("r3mem: ")
