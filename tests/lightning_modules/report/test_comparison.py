"""Means and spreads over seeds, like with like, and what is missing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lightning_modules.report import Comparison, read_runs
from lightning_modules.report.comparison import OURS
from lightning_modules.report.page import notes, page
from tests.lightning_modules.report.made_up import write_run


def compared(folder: Path) -> Comparison:
    return Comparison(read_runs(folder))


def test_mean_and_spread_are_over_seeds(tmp_path: Path) -> None:
    for seed, (easy, hard) in enumerate([(0.9, 0.5), (0.8, 0.2), (1.0, 0.2)]):
        write_run(tmp_path, "copy", "gist", seed, {(4, 8): easy, (16, 8): hard})
    score = compared(tmp_path).score("copy", "gist")
    # Means of the runs: 0.7, 0.5, 0.6.
    assert score.values == pytest.approx((0.7, 0.5, 0.6))
    assert score.mean == pytest.approx(0.6) and score.spread == pytest.approx(0.1)
    assert str(score) == "0.600 ± 0.100"


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    write_run(tmp_path, "copy", "gist", 0, {(4, 8): 0.5})
    assert str(compared(tmp_path).score("copy", "gist")) == "0.500"


def test_missing_seeds_are_told_and_not_averaged(tmp_path: Path) -> None:
    for seed, value in enumerate((0.2, 0.4, 0.6)):
        write_run(tmp_path, "copy", "whole", seed, {(4, 8): value})
    for seed in (0, 2):
        write_run(tmp_path, "copy", "holes", seed, {(4, 8): 0.5})
    write_run(tmp_path, "needle", "whole", 0, {(4, 8): 0.5})
    found = compared(tmp_path)
    assert str(found.score("copy", "holes")) == "0.500 ± 0.000 (2 of 3 seeds)"
    assert str(found.score("needle", "holes")) == "missing" and math.isnan(found.score("needle", "holes").mean)
    assert found.missing() == ["copy/holes-seed1", "needle/holes-seed0"]


def test_a_run_that_lacks_rows_counts_only_where_it_has_them(tmp_path: Path) -> None:
    write_run(tmp_path, "copy", "whole", 0, {(4, 8): 0.9, (4, 16): 0.7})
    write_run(tmp_path, "copy", "half", 0, {(4, 8): 0.8})
    found = compared(tmp_path)
    assert not found.score("copy", "half").values
    along = found.along("copy", "ratio")
    assert found.score("copy", "half", None, along[8]).values == (0.8,)
    assert not found.score("copy", "half", None, along[16]).values
    assert found.missing() == ["copy/half-seed0: 1 of 2 rows"]


def test_an_axis_compares_like_with_like(tmp_path: Path) -> None:
    # The hardest is measured at one ratio: along the ratio it is left out.
    write_run(tmp_path, "copy", "gist", 0, {(4, 8): 0.9, (4, 16): 0.7, (64, 8): 0.1})
    found = compared(tmp_path)
    by_ratio = {r: found.score("copy", "gist", None, p).mean for r, p in found.along("copy", "ratio").items()}
    by_pairs = {n: found.score("copy", "gist", None, p).mean for n, p in found.along("copy", "pairs").items()}
    assert by_ratio == {8: 0.9, 16: 0.7} and by_pairs == {4: 0.9, 64: 0.1}
    assert found.difficulty("copy") == "pairs" and found.score("copy", "gist").mean == pytest.approx(1.7 / 3)


def test_the_reference_has_no_ratio(tmp_path: Path) -> None:
    write_run(tmp_path, "copy", "gist", 0, {(4, 8): 0.5, (4, 16): 0.4})
    write_run(tmp_path, "copy", "full_text", 0, {(4, 1): 0.95}, group="reference")
    found = compared(tmp_path)
    assert found.score("copy", "full_text").values == (0.95,) and not found.missing()
    assert found.axis("copy", "ratio") == [8, 16]
    assert found.methods == ["gist", "full_text"]


def test_other_starts_are_marked(tmp_path: Path) -> None:
    write_run(tmp_path, "copy", "one", 0, {(4, 8): 0.5}, start="aa")
    write_run(tmp_path, "copy", "two", 0, {(4, 8): 0.5}, start="aa")
    write_run(tmp_path, "copy", "other", 0, {(4, 8): 0.5}, start="bb")
    # Each seed has its own, and text tasks have none.
    write_run(tmp_path, "copy", "one", 1, {(4, 8): 0.5}, start="cc")
    write_run(tmp_path, "recall", "one", 0, {(4, 8): 0.5})
    found = compared(tmp_path)
    assert {m for m in found.methods if str(found.score("copy", m)).endswith("†")} == {"other"}
    assert any("copy/other-seed0" in note for note in notes(found))
    assert not str(found.score("recall", "one")).endswith("†")


def test_what_a_start_does_not_solve_is_told(tmp_path: Path) -> None:
    write_run(tmp_path, "copy", "a", 0, {(16, 8): 0.5}, start_lost=[[16, 1], [16, 4]])
    write_run(tmp_path, "copy", "a", 1, {(16, 8): 0.5}, start_lost=[])
    write_run(tmp_path, "recall", "a", 0, {(16, 8): 0.5})
    told = [note for note in notes(Comparison(read_runs(tmp_path))) if "does not solve" in note]
    assert told == [
        "The start of copy, seed 0, does not solve all with the text in front: not 16 (1 segments), 16 (4 segments)."
    ]


def test_other_commits_are_marked(tmp_path: Path) -> None:
    for seed, commit in enumerate(("abc", "abc", "def")):
        write_run(tmp_path, "copy", "gist", seed, {(4, 8): 0.5}, commit=commit)
    write_run(tmp_path, "copy", "other", 0, {(4, 8): 0.5})
    found = compared(tmp_path)
    assert str(found.score("copy", "gist")).endswith("*")
    assert not str(found.score("copy", "other")).endswith("*")


def test_losses_name_who_is_ahead_of_the_best_of_ours(tmp_path: Path) -> None:
    for method, group, value in (
        ("a", "ours", 0.4), ("b", "ours", 0.6), ("c", "peer", 0.7), ("d", "control", 0.5), ("e", "control", 0.8),
        ("full_text", "reference", 1.0),
    ):  # fmt: skip
        # Ours is ahead of all at ratio 16.
        write_run(tmp_path, "copy", method, 0, {(4, 8): value, (4, 16): 0.9 if method == "a" else 0.1}, group=group)
    found = [(task, where, method, best) for task, where, method, _, best, _ in compared(tmp_path).losses()]
    assert found == [("copy", "ratio 8", "e", "b")]


def test_costs(tmp_path: Path) -> None:
    for seed, seconds in enumerate((2.0, 4.0)):
        write_run(tmp_path, "copy", "gist", seed, {(4, 8): 0.5}, cost={"train_seconds": seconds})
    found = compared(tmp_path)
    assert found.cost("copy", "gist", "train_seconds") == 3.0
    assert math.isnan(found.cost("copy", "gist", "peak_mib"))


def test_rows_are_told_seed_by_seed(tmp_path: Path) -> None:
    runs = {
        # Best of ours over the whole task, not at each row.
        "a": ("ours", [{(4, 8): 0.9, (4, 16): 0.5}, {(4, 8): 0.9, (4, 16): 0.6}]),
        "z": ("ours", [{(4, 8): 0.1, (4, 16): 0.9}, {(4, 8): 0.1, (4, 16): 0.9}]),
        "b": ("peer", [{(4, 8): 0.8, (4, 16): 0.6}, {(4, 8): 0.95, (4, 16): 0.3}]),
        "c": ("control", [{(4, 8): 0.85, (4, 16): 0.1}, {(4, 8): 0.1}]),
        "full_text": ("reference", [{(4, 1): 1.0}, {(4, 1): 1.0}]),
    }
    for method, (group, seeds) in runs.items():
        for seed, values in enumerate(seeds):
            write_run(tmp_path, "copy", method, seed, values, group=group)
    found = compared(tmp_path)
    assert found.best("copy", OURS) == "a" and found.by_seed("copy", "c") == {0: pytest.approx(0.475)}
    each, means = found.head_to_head("copy")
    told = {(dict(d.place)["ratio"], d.seed): (d.own, d.best, d.other) for d in each}
    assert told == {
        (8, 0): (0.9, "c", 0.85), (16, 0): (0.5, "b", 0.6), (8, 1): (0.9, "b", 0.95), (16, 1): (0.6, "b", 0.3),
    }  # fmt: skip
    # Of the other's mean only where it has every seed that ours has.
    assert [(dict(d.place)["ratio"], d.best, round(d.behind, 6)) for d in means] == [(16, "b", -0.1), (8, "b", -0.025)]
    told_on_page = page(found, [])
    assert "behind at 2 of 4, most of all 0.500 against 0.600 of b (seed 0, " in told_on_page
    assert "in the mean over seeds behind at 0 of 2." in told_on_page
    assert "| c | 0.475 | missing |" in told_on_page and "| full_text | 1.000 | 1.000 |" in told_on_page
