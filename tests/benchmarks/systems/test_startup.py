"""The script of startup runs on any text and backbone, and writes what it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.scripts import ROOT, refused, run

STARTUP = ("--ratio", "4", "--counts", "2", "3", "--pieces", "2", "--many", "3", "16", "--repeats")


@pytest.mark.slow
def test_startup_of_two_checkouts(text: Path, backbone_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("r3mem", "lightning_modules", "datamodules", "configs", "pyproject.toml"):
        (other / name).symlink_to(ROOT / name)
    written = run("systems.startup", text, backbone_folder, *STARTUP, "2", "--beside", str(other))
    rows = {(row["what"], row["checkout"]): row for row in written["rows"]}
    assert len(rows) == len(written["rows"]) == 2 * 13 and {name for _, name in rows} == {"other", ROOT.name}
    for (what, _), row in rows.items():
        assert len(row["turns"]) == (1 if "of 16 tokens" in what else 2) and 0 < row["least"] <= row["seconds"]
        assert row.get("exit_code", 0) == (2 if what.endswith("fitt") else 0)
    many = [row for row in written["rows"] if row["what"] == "3 texts of 16 tokens, one call"]
    assert all(0 < row["peak_before_mib"] <= row["peak_mib"] for row in many) and len(many) == 2
    assert {"2 texts, one by one", "3 texts, one call", "one memory, 2 pieces", "one memory, one call"} < {
        what for what, _ in rows
    }


def test_startup_beside_no_checkout_is_one_clear_line(text: Path, backbone_folder: Path, tmp_path: Path) -> None:
    printed = refused("systems.startup", "--text", text, "--backbone", backbone_folder, "--beside", tmp_path)
    assert f"{tmp_path} is no checkout of this repository: make one with git worktree add" in printed
    printed = refused("systems.startup", "--text", text, "--backbone", backbone_folder, "--counts", 10000)
    assert "texts of 80 characters only; give a text that has 10000" in printed
