"""The script of retention runs on any text and backbone, and writes what it promises."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.scripts import run


def test_retention_without_training(text: Path, backbone_folder: Path) -> None:
    more = ("--history", "96", "--windows", "2", "--segment", "48", "--stream-ratio", "8", "--precision", "int8")
    written = run("claims.retention", text, backbone_folder, "--ratio", "4", "8", *more)
    rows = {(row["method"], row["ratio"]): row for row in written["rows"]}
    assert rows["nothing", 96]["gain"] == 0 and rows["full", 96]["gain"] == 1
    assert {method for method, ratio in rows if ratio == 8} == {
        "selected (1 pass)", "selected (2 passes)", "attention received", "distant attention", "sinks and last",
        "random", "oracle", "selected (1 pass), another passage's", "with words, int8", "selected, streamed",
        "raw last", "raw first",
    }  # fmt: skip
    for row in rows.values():
        assert row["windows"] == len(row["nll_by_window"]) == 2 and row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert rows["raw last", 8]["ahead"] == 0
