"""The script of streams runs on any text and backbone, and writes what it promises."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.scripts import run


def test_streams(text: Path, backbone_folder: Path) -> None:
    more = ("--tokens", "480", "--segment", "48", "--slots", "16", "--parts", "2", "--compare-every", "2")
    written = run("claims.streams", text, backbone_folder, *more)
    assert [row["segments"] for row in written["rows"]] == [2, 2]
    # Every second segment is compared; the state is full by then, and never larger.
    assert {segment["slots"] for segment in written["segments"]} == {16}
    assert all(segment["nll_state"] > 0 for segment in written["segments"])
