"""The comparison: each run a process and a file; what fails stops nothing, what is done is not made again."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.compare import __main__ as compare
from benchmarks.compare.runs import Run, expected_seconds, run_all
from benchmarks.compare.text.run import run_text
from benchmarks.compare.text.task import TextBudget
from benchmarks.parts.harness import portable
from r3mem import InputError

FIELDS = {
    "command", "commit", "seed", "hardware", "date", "task", "method", "group", "budget", "metric", "cost", "rows"
}  # fmt: skip
COST = {
    "train_seconds", "train_tokens", "train_tokens_per_second", "parameters", "evaluation_seconds", "peak_mib",
}  # fmt: skip


class Scripted:
    """Runs that are little scripts, told what they are called with.

    Args:
        folder: Of the suite.
        script: Python code; ``path`` is where the file is to go, ``name`` what is run.
    """

    def __init__(self, folder: Path, script: str = "open(path, 'w').write('{}')") -> None:
        self.folder, self.script = folder, script
        self.made: list[str] = []
        self.console = Console(file=io.StringIO(), width=200)

    def __call__(self, run: Run) -> list[str]:
        self.made.append(run.name)
        run.path.parent.mkdir(parents=True, exist_ok=True)
        return [sys.executable, "-c", f"path, name = {str(run.path)!r}, {run.name!r}\n{self.script}"]

    def runs(self, *methods: str, reference: Run | None = None) -> list[Run]:
        return [Run(self.folder, "copy", method, 0, reference) for method in methods]

    @property
    def said(self) -> str:
        file = self.console.file
        assert isinstance(file, io.StringIO)
        return file.getvalue()


def test_runs_that_are_done_are_not_made_again(tmp_path: Path) -> None:
    scripted = Scripted(tmp_path)
    assert run_all(scripted.runs("a"), scripted, 1, scripted.console) == []
    assert run_all(scripted.runs("a", "b"), scripted, 2, scripted.console) == []
    assert scripted.made == ["copy/a-seed0", "copy/b-seed0"]


def test_a_run_that_fails_is_told_and_stops_nothing(tmp_path: Path) -> None:
    scripted = Scripted(tmp_path, "if 'bad' in name: raise SystemExit('no such thing')\nopen(path, 'w').write('{}')")
    runs = scripted.runs("bad", "good")
    assert run_all(runs, scripted, 1, scripted.console) == [runs[0]]
    assert not runs[0].done and runs[1].done
    assert "failed: copy/bad-seed0" in scripted.said and "no such thing" in scripted.said
    assert "no such thing" in runs[0].log.read_text()
    # It is made again, and what it had said is gone.
    again = Scripted(tmp_path)
    assert run_all(runs, again, 1, again.console) == [] and again.made == ["copy/bad-seed0"]
    assert not runs[0].log.exists()


def test_a_run_that_writes_nothing_has_failed(tmp_path: Path) -> None:
    scripted = Scripted(tmp_path, "pass")
    assert len(run_all(scripted.runs("silent"), scripted, 1, scripted.console)) == 1


def test_references_are_made_first_and_their_failure_is_passed_on(tmp_path: Path) -> None:
    first = Run(tmp_path, "copy", "full_text", 0)
    scripted = Scripted(tmp_path)
    runs = [*scripted.runs("a", reference=first), first]
    assert run_all(runs, scripted, 2, scripted.console) == []
    assert scripted.made == ["copy/full_text-seed0", "copy/a-seed0"]
    other = Run(tmp_path, "needle", "full_text", 0)
    failing = Scripted(tmp_path, "raise SystemExit(3)")
    failed = run_all(failing.runs("b", reference=other), failing, 1, failing.console)
    assert [run.name for run in failed] == ["needle/full_text-seed0", "copy/b-seed0"]
    assert "not started: its reference needle/full_text-seed0 failed" in failing.said


def test_a_run_waits_for_its_own_reference_alone(tmp_path: Path) -> None:
    """The slow reference ends only once the run of the quick one is done, and would wait for it in vain before."""
    quick, slow = Run(tmp_path, "copy", "full_text", 0), Run(tmp_path, "retention", "full_text", 0)
    script = (
        "import os, time\n"
        f"other, end = {str(tmp_path / 'copy' / 'a-seed0.json')!r}, time.monotonic() + 60\n"
        "while 'retention/full' in name and not os.path.exists(other) and time.monotonic() < end: time.sleep(0.01)\n"
        "open(path, 'w').write(str(os.path.exists(other)))"
    )
    scripted = Scripted(tmp_path, script)
    runs = [slow, quick, *scripted.runs("a", reference=quick), Run(tmp_path, "retention", "a", 0, slow)]
    assert run_all(runs, scripted, 2, scripted.console) == []
    assert slow.path.read_text() == "True" and scripted.made[-1] == "retention/a-seed0"


def test_a_run_has_one_thread(tmp_path: Path) -> None:
    scripted = Scripted(tmp_path, "import os; open(path, 'w').write(os.environ['OMP_NUM_THREADS'])")
    (run,) = scripted.runs("a")
    run_all([run], scripted, 1, scripted.console)
    assert run.path.read_text() == "1"


def test_costs_of_finished_runs_tell_what_others_will_take(tmp_path: Path) -> None:
    assert expected_seconds(Run(tmp_path, "copy", "a", 0)) is None
    for method, seconds in (("a", 10.0), ("b", 20.0), ("ab", 90.0)):
        path = Run(tmp_path, "copy", method, 0).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"cost": {"wall_seconds": seconds}}))
    assert expected_seconds(Run(tmp_path, "copy", "b", 1)) == 20.0
    assert expected_seconds(Run(tmp_path, "copy", "c", 1)) == 20.0


def called(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["compare.py", "--out", str(folder), *arguments])
    compare.main()


def test_files_of_a_synthetic_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("full_text", "recurrent_memory"):
        called(monkeypatch, tmp_path, "--one", "associative_recall", method, "0")
    folder = tmp_path / "smoke" / "associative_recall"
    written = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert set(written) == {"full_text-seed0.json", "recurrent_memory-seed0.json"}
    assert [written[name]["group"] for name in sorted(written)] == ["reference", "peer"]
    budgets = [run["budget"] for run in written.values()]
    assert budgets[0] == budgets[1]
    for run in written.values():
        assert set(run) >= FIELDS and set(run["cost"]) >= COST | {"wall_seconds"}
        assert all({"pairs", "ratio", "segments", "positions", "bytes", "share"} <= set(row) for row in run["rows"])
        assert all(0 <= row[run["metric"]] <= 1 for row in run["rows"])


def test_list_tells_what_is_to_do_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Run(tmp_path / "smoke", "recall", "edge_pool", 0).path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"cost": {"wall_seconds": 120.0}}))
    called(monkeypatch, tmp_path, "--tasks", "recall", "needle", "--methods", "edge_pool", "mean_pool", "--list")
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == (
        "Still to be made: 3 of 4 runs. Time for 1 of them: about 2 min, with --jobs 1. Time for 2 of them: not known, "
        "because no run of their tasks has finished."
    )
    assert [file.name for file in tmp_path.rglob("*.*")] == [path.name]


def test_a_suite_has_seeds_for_each_task_unless_told_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seeds(*options: str) -> dict[str, list[int]]:
        words = ["compare.py", "--suite", "full", "--out", str(tmp_path), "--methods", "edge_pool", *options]
        monkeypatch.setattr(sys, "argv", words)
        runs = compare.runs_of(compare.parsed())
        return {task: [run.seed for run in runs if run.task == task] for task in compare.TASKS}

    assert seeds() == {task: list(compare.SEEDS["full"][task]) for task in compare.TASKS}
    assert seeds()["associative_recall"] == [10, 11, 12] and seeds()["retention"] == [0]
    assert set(map(tuple, seeds("--seeds", "4", "7").values())) == {(4, 7)}


def test_wrong_arguments_are_told_before_anything_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no method 'recurent_memory'"):
        called(monkeypatch, tmp_path, "--methods", "recurent_memory")
    with pytest.raises(InputError, match="trainable_stack is not compared"):
        called(monkeypatch, tmp_path, "--methods", "trainable_stack")
    with pytest.raises(InputError, match="--jobs must be"):
        called(monkeypatch, tmp_path, "--jobs", "0")
    for suite in ("full", "gpu"):
        with pytest.raises(InputError, match=f"{suite} has no texts"):
            called(monkeypatch, tmp_path, "--suite", suite, "--tasks", "recall")


def test_runs_of_another_budget_are_not_taken_for_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Run(tmp_path / "smoke", "copy", "edge_pool", 0).path
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"budget": {"steps": 1}}))
    with pytest.raises(InputError, match=r"edge_pool-seed0\.json was made with another budget: remove it"):
        called(monkeypatch, tmp_path, "--tasks", "copy", "--methods", "edge_pool")


@pytest.mark.parametrize("row", [{"ratio": 4, "exact_match": float("nan")}, {"ratio": 4}])
def test_a_figure_that_is_missing_or_no_number_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any]
) -> None:
    made = {"metric": "exact_match", "budget": {}, "cost": {}, "rows": [row]}
    monkeypatch.setattr(compare, "run_task", lambda *given: made)
    with pytest.raises(InputError, match="exact_match"):
        called(monkeypatch, tmp_path, "--one", "copy", "edge_pool", "0")
    assert not list(tmp_path.rglob("*.json"))


@pytest.fixture(scope="module")
def budget(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> TextBudget:
    text = tmp_path_factory.mktemp("texts") / "words.txt"
    text.write_text(" ".join(f"word{i} of the text" for i in range(4000)), encoding="utf-8")
    return TextBudget(
        str(backbone_folder), "float32", (str(text),), ratios=(2, 4), train_tokens=2 * 768, batch=1, passages=2,
        recall_tokens=32,
    )  # fmt: skip


def test_retention_is_measured_against_the_reader_of_raw_text(budget: TextBudget) -> None:
    reference = run_text("retention", "full_text", 0, budget)
    (known,) = reference["rows"]
    assert known["retained_gain"] == 1.0 and known["positions"] == 512
    made = run_text("retention", "last_tokens", 0, budget, reference)
    assert made["metric"] == "retained_gain" and set(made["cost"]) >= COST and made["budget"] == reference["budget"]
    assert made["cost"]["train_tokens"] == reference["cost"]["train_tokens"] == 2 * 768
    assert [(row["ratio"], row["positions"], row["bytes"]) for row in made["rows"]] == [
        (2, 256, 2 * 256 * 32), (4, 128, 2 * 128 * 32)
    ]  # fmt: skip
    for row in made["rows"]:
        assert (row["nll_nothing"], row["nll_full"]) == (known["nll_nothing"], known["nll_full"])
        gain = (row["nll_nothing"] - row["nll_memory"]) / (row["nll_nothing"] - row["nll_full"])
        assert row["retained_gain"] == pytest.approx(gain) and row["share"] == 0
    with pytest.raises(InputError, match="measured against full_text"):
        run_text("retention", "last_tokens", 0, budget)


def test_recall_is_by_the_stack_for_ours_and_by_reconstruction_for_peers(budget: TextBudget) -> None:
    ours = run_text("recall", "edge_pool", 0, budget)["rows"]
    peer = run_text("recall", "recurrent_memory", 0, budget)["rows"]
    whole = run_text("recall", "full_text", 0, budget)["rows"]
    assert {row["recalled_by"] for row in ours} == {"stack"}
    assert {row["recalled_by"] for row in peer + whole} == {"reconstruction"}
    assert [len(rows) for rows in (ours, peer, whole)] == [2, 2, 1]
    assert [row["recall_exact"] for row in ours] == [1.0, 1.0]
    for row in ours + peer + whole:
        assert 0 <= row["free_running_accuracy"] <= 1 and 0 <= row["teacher_forced_accuracy"] <= 1
    assert all(row["recall_exact"] == row["reconstructed_exact"] for row in peer)


def test_texts_are_told_as_every_machine_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3MEM_DATA", "/some/data/")
    for told in ("$R3MEM_DATA", "$R3MEM_DATA/books/a.jsonl.xz", "/some/database/a.txt", "a.txt"):
        assert portable(os.path.expandvars(told).replace("//", "/").removesuffix("/")) == told
    monkeypatch.delenv("R3MEM_DATA")
    assert portable("/some/data/a.txt") == "/some/data/a.txt"


def test_full_takes_texts() -> None:
    for asked in (TextBudget.full("recall"), TextBudget.gpu("recall")):
        with pytest.raises(InputError, match="give some with --text"):
            run_text("recall", "edge_pool", 0, asked)
