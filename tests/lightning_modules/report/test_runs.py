"""Files of runs are read, and refused where they do not belong together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.report import read_runs
from r3mem import InputError
from tests.lightning_modules.report.made_up import write_run


def test_rows_are_found_by_their_place(tmp_path: Path) -> None:
    write_run(tmp_path, "copy", "gist", 3, {(4, 8): 0.5, (16, 8): 0.25})
    (run,) = read_runs(tmp_path)
    assert (run.task, run.method, run.seed, run.group, run.metric) == ("copy", "gist", 3, "peer", "exact_match")
    assert {place: row["exact_match"] for place, row in run.rows.items()} == {
        (("pairs", 4), ("segments", 1), ("ratio", 8)): 0.5, (("pairs", 16), ("segments", 1), ("ratio", 8)): 0.25,
    }  # fmt: skip


def test_budgets_are_not_mixed(tmp_path: Path) -> None:
    write_run(tmp_path, "copy", "gist", 0, {(4, 8): 0.5})
    write_run(tmp_path, "copy", "other", 0, {(4, 8): 0.5}, budget={"steps": 20, "lr": 0.001})
    with pytest.raises(InputError, match=r"other-seed0\.json has another budget .*steps 10 against 20"):
        read_runs(tmp_path)


def test_tasks_may_have_budgets_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path, "copy", "gist", 0, {(4, 8): 0.5})
    write_run(tmp_path, "needle", "gist", 0, {(4, 8): 0.5}, budget={"steps": 20})
    assert len(read_runs(tmp_path)) == 2


def test_suites_are_not_mixed(tmp_path: Path) -> None:
    for suite in ("smoke", "full"):
        write_run(tmp_path / suite, "copy", "gist", 0, {(4, 8): 0.5})
    with pytest.raises(InputError, match="report each suite by itself"):
        read_runs(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": []}, "rows missing"),
        ({"rows": [{"ratio": 8, "exact_match": float("nan")}]}, r"exact_match is nan at \{'ratio': 8\}"),
        ({"rows": [{"ratio": 8, "nll": 1.0}]}, "exact_match is None"),
        ({"rows": [{"ratio": 8, "exact_match": 1.0}] * 2}, "two rows at"),
        ({"group": "friend"}, "group 'friend' is not one of ours, peer"),
    ],
)
def test_files_that_are_no_runs(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    write_run(tmp_path, "copy", "gist", 0, {(4, 8): 0.5}, **change)
    with pytest.raises(InputError, match=told):
        read_runs(tmp_path)


def test_a_file_that_lacks_fields_or_is_cut_off(tmp_path: Path) -> None:
    path = write_run(tmp_path, "copy", "gist", 0, {(4, 8): 0.5})
    whole = path.read_text()
    path.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != "commit"}))
    with pytest.raises(InputError, match="commit missing; remove it"):
        read_runs(tmp_path)
    path.write_text(whole[:100])
    with pytest.raises(InputError, match="not a run"):
        read_runs(tmp_path)


def test_no_runs_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no runs there"):
        read_runs(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_runs(tmp_path / "nothing")
