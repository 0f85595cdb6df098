"""The script of retention hidden states runs on any text and backbone, and writes what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.scripts import run

RETENTION_ROW = {
    "method", "ratio", "nll_nothing", "nll_memory", "nll_last_n", "nll_full", "retained_gain", "train_seconds",
    "train_tokens",
}  # fmt: skip


@pytest.mark.slow
def test_retention(text: Path, backbone_folder: Path) -> None:
    more = ("--ratio", "8", "--train-tokens", "3072", "--batch", "2", "--passages", "2")
    written = run(
        "claims.retention_hidden_states", text, backbone_folder, *more, "--share", "0.5", "--stream-tokens", "2048"
    )
    assert all(set(row) >= RETENTION_ROW for row in written["rows"])
    assert {row["method"] for row in written["rows"]} == {
        f"{method}{what}" for method in ("virtual_tokens", "edge_pool")
        for what in ("", " + recent", ", another passage's memory", ", random memory")
    } | {"mean_pool", "mean_pool + recent"}  # fmt: skip
    assert {row["method"] for row in written["streaming"]} == {"edge_pool"}
    assert {row["share"] for row in written["rows"]} == {0.5}
    assert {m: len(points) for m, points in written["curves"].items()} == dict.fromkeys(
        ("raw", "virtual_tokens", "mean_pool", "edge_pool"), 2
    )


@pytest.mark.slow
def test_retention_of_memories_without_words(text: Path, backbone_folder: Path) -> None:
    budget = ("--ratio", "8", "--train-tokens", "1536", "--batch", "2", "--passages", "2", "--stream-documents", "0")
    methods = ("--methods", "raw", "edge_pool", "recurrent_memory")
    written = run("claims.retention_hidden_states", text, backbone_folder, *budget, *methods, "--share", "0")
    assert len(written["rows"]) == len({row["nll_memory"] for row in written["rows"]}) == 8 and {
        row["share"] for row in written["rows"]
    } == {0.0}
