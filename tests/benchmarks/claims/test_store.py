"""The benchmark of the store measures every way of keeping, and writes what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from tests.benchmarks.scripts import refused, run

RATES = {f"{name}_per_second" for name in ("fills", "adds", "gets", "recalls", "searches", "deletes")}


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """A conversation of LoCoMo's form, in which every question has words of one turn."""
    said = [{"speaker": "Ann", "dia_id": f"D1:{i}", "text": f"On day {i} I saw animal{i}."} for i in range(12)]
    more = [{"speaker": "Bob", "dia_id": f"D2:{i}", "text": f"We ate dish{i}."} for i in range(12)]
    qa = [
        {"question": "When did she see animal7?", "answer": "day 7", "evidence": ["D1:7"], "category": 2},
        {"question": "dish3 and dish4?", "answer": "both", "evidence": ["D2:3; D2:4"], "category": 1},
        {"question": "And animal5?", "adversarial_answer": "no", "evidence": ["D1:5"], "category": 5},
        {"question": "Of nothing?", "answer": 3, "evidence": ["D9:1"], "category": 4},
    ]
    record = {"sample_id": "one", "conversation": {"session_10": more, "session_2": said}, "qa": qa}
    path = tmp_path / "locomo.jsonl"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return path


def test_store(text: Path, talks: Path, backbone_folder: Path) -> None:
    written = run(
        "claims.store", text, backbone_folder, "--entries", "12", "24", "--singles", "3", "--queries", "4",
        "--characters", "80", "--deletes", "2", "--compressed", "3", "--evidence", str(talks), "--likelihood",
    )  # fmt: skip
    rows, (few,), found = written["rows"], written["compressed"], written["evidence"]
    methods = {row["method"] for row in rows}
    assert {"plain FTS5", "store, SQLite"} <= methods and len(rows) == 2 * len(methods)
    left_out = " ".join(written["left_out"])
    assert ("store, PostgreSQL" in methods) != ("store, PostgreSQL" in left_out) and "mem0" in left_out
    for row in rows:
        assert all(row[name] > 0 for name in RATES)
        assert 20 < row["text_bytes_per_entry"] <= 80 < row["disk_bytes_per_entry"]
        if row["method"] != "plain FTS5":
            # What waits for compression is kept as it is.
            assert row["raw_bytes_per_entry"] == row["text_bytes_per_entry"] and row["blob_bytes_per_entry"] == 0
            assert row["adds_of_fts5"] > 0
    assert few["entries"] == 3 and few["blob_bytes_per_entry"] > 0 and few["raw_bytes_per_entry"] == 0
    assert few["tokens_per_entry"] > few["positions_per_entry"] > 0
    of = {row["method"]: row for row in found}
    assert set(of) == {"plain FTS5", "store, FullText", "store, Likelihood", "store, FullText and Likelihood"}
    for row in of.values():
        assert (row["talks"], row["turns"], row["questions"]) == (1, 24, 2)
        assert 0 <= row["recall@1"] <= row["recall@20"] <= 1
    for method in ("plain FTS5", "store, FullText"):
        assert of[method]["recall@5"] == 1


def test_sizes_that_are_not_possible(text: Path, backbone_folder: Path) -> None:
    printed = refused("claims.store", "--text", text, "--backbone", backbone_folder, "--entries", 1)
    assert "--entries is at least 2" in printed


def test_evidence_of_another_form_is_one_clear_line(text: Path, backbone_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"question": "Who?"}\n', encoding="utf-8")
    printed = refused(
        "claims.store", "--text", text, "--backbone", backbone_folder, "--entries", 4, "--singles", 1, "--queries", 1,
        "--deletes", 1, "--compressed", 0, "--evidence", other,
    )  # fmt: skip
    assert "not a conversation of LoCoMo" in printed
