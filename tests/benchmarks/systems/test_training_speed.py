"""The script of training speed runs on any text and backbone, and writes what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.scripts import run


@pytest.mark.slow
def test_training_speed(text: Path, backbone_folder: Path) -> None:
    more = ("--ratio", "4", "--batch", "2", "--segment", "16", "--repeats", "2")
    written = run("systems.training_speed", text, backbone_folder, *more)
    assert written["dtype"] == "float32" and written["tokens_per_step"] == 64
    bare, step, logits = written["rows"]
    assert bare["relative_to_bare"] == 1 and all(len(row["turns"]) == 2 for row in written["rows"])
    assert min(row["tokens_per_second"] for row in (bare, step, logits)) > 0
