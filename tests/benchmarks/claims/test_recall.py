"""The script of recall runs on any text and backbone, and writes what it promises."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.scripts import refused, run

RECALL_ROW = {
    "text", "ratio", "precision", "segments", "exact_match", "exact_match_corrected", "correction_bits_per_token"
}  # fmt: skip


def test_recall(text: Path, backbone_folder: Path) -> None:
    sizes = ["--segments", "3", "--curve-segments", "2", "--decoder-tokens", "1024"]
    written = run("claims.recall", text, backbone_folder, "--ratio", "2", "8", *sizes)
    assert all(set(row) >= RECALL_ROW for row in written["rows"])
    assert {(r["text"].split("/")[-1], r["ratio"], r["precision"]) for r in written["rows"]} == {
        (t, r, p) for t in ("words", "random") for r in (2, 8) for p in ("float16", "int8")
    }
    assert all(row["exact_match_corrected"] == 1 for row in written["rows"])
    (made,) = written["autoregressive"]
    # One step teaches nothing: no text comes back by itself, all of them by corrections.
    assert (made["exact_match"], made["exact_match_corrected"]) == (0, 1) and made["correction_bits_per_token"] > 1
    assert {row["coupling"] for row in written["inverse"]} == {
        "PositionBinding", "AttentionCoupling", "TransformerCoupling"
    }  # fmt: skip


def test_a_missing_text_is_one_clear_line(text: Path, backbone_folder: Path) -> None:
    missing = text.with_name("nothing.txt")
    printed = refused("claims.recall", "--text", missing, "--backbone", backbone_folder, "--ratio", 4)
    assert "error:" in printed and "no such file" in printed
