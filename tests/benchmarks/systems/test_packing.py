"""The script of packing runs on any text and backbone, and writes what it promises."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.scripts import run


def test_packing(text: Path, backbone_folder: Path) -> None:
    sizes = ["--documents", "6", "--shortest", "2", "--longest", "40", "--repeats", "1"]
    written = run("systems.packing", text, backbone_folder, "--ratio", "4", *sizes, "--attention", "eager")
    assert len(written["lengths"]) == 6 and max(written["lengths"]) == 40
    rows = {(row["path"], row["layout"]): row for row in written["rows"]}
    assert len(rows) == 6
    for ratio in written["ratios"]:
        padded, packed = rows[ratio["path"], "padded"], rows[ratio["path"], "packed"]
        assert 0 <= packed["padding"] < padded["padding"] < 1 and packed["packed_rows"] < padded["packed_rows"] == 6
        if ratio["path"] != "likelihood":
            assert 0 < ratio["activation_mib"] < 1
