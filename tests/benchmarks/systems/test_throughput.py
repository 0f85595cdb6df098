"""The script of throughput runs on any text and backbone, and writes what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.scripts import run

THROUGHPUT_ROW = {"path", "tokens_per_second", "relative_to_plain", "peak_mib"}


@pytest.mark.slow
def test_throughput(text: Path, backbone_folder: Path) -> None:
    more = ("--ratio", "8", "--batch", "2", "--repeats", "1", "--length", "600", "1200")
    written = run("systems.throughput", text, backbone_folder, *more)
    assert all(set(row) >= THROUGHPUT_ROW for row in written["rows"] if "tokens" not in row)
    assert [row["tokens"] for row in written["rows"] if "tokens" in row] == [600, 1200]
    kept = {(row["couplings"], row["reversible"]): row["activation_mib"] for row in written["activation"]}
    assert kept[16, True] == kept[1, True] and kept[16, False] > 8 * kept[1, False]
