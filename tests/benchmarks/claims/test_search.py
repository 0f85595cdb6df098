"""The search benchmark reads all three kinds of record, runs every method, and writes what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.scripts import process, refused

ROW = {
    "text", "method", "questions", "recall@2", "recall@2_low", "recall@2_high", "recall@5", "mrr", "ms_per_query",
    "index_ms_per_passage", "positions_per_passage",
}  # fmt: skip


def records() -> dict[str, list[dict[str, object]]]:
    """Six questions of each kind, with twelve paragraphs; the second and the fifth support."""
    out: dict[str, list[dict[str, object]]] = {"hotpotqa": [], "musique": [], "2wikimultihopqa": []}
    for q in range(6):
        titles = [f"Town{q}x{i}" for i in range(12)]
        sentences = [[f"{title} lies by a river.", f"Founder{q}x{i} built it."] for i, title in enumerate(titles)]
        common = {"question": f"Who built Town{q}x1 and Town{q}x4?", "answer": f"Founder{q}x1"}
        marks = [i in (1, 4) for i in range(12)]
        out["hotpotqa"].append({**common, "contexts": [
            {"title": t, "is_supporting": m, **({"text": " ".join(s)} if q % 2 else {"sentences": [s[0], " " + s[1]]})}
            for t, s, m in zip(titles, sentences, marks, strict=True)
        ]})  # fmt: skip
        out["musique"].append({**common, "paragraphs": [
            {"title": t, "paragraph_text": " ".join(s), "is_supporting": m}
            for t, s, m in zip(titles, sentences, marks, strict=True)
        ]})  # fmt: skip
        out["2wikimultihopqa"].append({
            **common, "context": [[t, s] for t, s in zip(titles, sentences, strict=True)],
            "supporting_facts": [[titles[1], 0], [titles[4], 1]],
        })  # fmt: skip
    return out


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for name, rows in records().items():
        path = tmp_path / name / "dev.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths.append(str(path))
    return paths


def test_search(tmp_path: Path, files: list[str], backbone_folder: Path) -> None:
    result = tmp_path / "result.json"
    done = process(
        "claims.search", "--text", *files, "--backbone", str(backbone_folder), "--ratio", "4", "--questions", "4",
        "--text-questions", "2", "--json", str(result), "--methods", "random", "bm25", "text", "first", "memory",
        "control",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads(result.read_text())
    rows = written["rows"]
    assert (written["model"], written["compressor"]) == (None, "selected_key_values")
    assert len(rows) == 3 * 6 and all(set(row) >= ROW for row in rows)
    for row in rows:
        assert 0 <= row["recall@2_low"] <= row["recall@2"] <= row["recall@2_high"] <= 1 and row["recall@5"] <= 1
        assert row["questions"] == (2 if row["method"] == "likelihood, raw text" else 4)
        if row["method"] == "BM25":
            assert row["recall@2"] == 1
        if row["method"].startswith("likelihood, memory"):
            assert row["ratio"] == 4 and row["train_tokens"] == 0 and row["positions_per_passage"] > 10
    # The three files hold the same questions and paragraphs, so the same is found in each.
    found = {row["text"]: row["recall@2"] for row in rows if row["method"] == "likelihood, memory"}
    assert len(found) == 3 and len(set(found.values())) == 1


def test_a_trained_model_is_searched_with(tmp_path: Path, files: list[str], backbone_folder: Path) -> None:
    model, result = tmp_path / "model", tmp_path / "result.json"
    done = process(
        "claims.search_training", "--text", *files[:2], "--backbone", str(backbone_folder), "--ratio", "4", "2",
        "--questions", "4", "--candidates", "3", "--save", str(model),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    spent = json.loads((model / "training.json").read_text())
    assert spent["questions"] == 4 and spent["train_tokens"] > 0
    done = process(
        "claims.search", "--text", files[0], "--model", str(model), "--ratio", "2", "--questions", "2", "--methods",
        "first", "memory", "--json", str(result),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert {row["train_tokens"] for row in json.loads(result.read_text())["rows"]} == {spent["train_tokens"]}


@pytest.mark.slow
def test_an_untrained_model_compresses_as_asked(tmp_path: Path, files: list[str], backbone_folder: Path) -> None:
    found = []
    for compressor in ("selected_key_values", "mean_pool"):
        result = tmp_path / f"{compressor}.json"
        done = process(
            "claims.search", "--text", files[0], "--backbone", str(backbone_folder), "--ratio", "2", "--questions", "6",
            "--methods", "memory", "--compressor", compressor, "--json", str(result),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        written = json.loads(result.read_text())
        assert written["compressor"] == compressor
        found.append(written["rows"][0])
    # The same passages at as many positions, found by other memories.
    assert found[0]["positions_per_passage"] == found[1]["positions_per_passage"]
    assert found[0]["mrr"] != found[1]["mrr"]


def test_a_saved_model_has_its_own_compressor(tmp_path: Path, files: list[str]) -> None:
    printed = refused("claims.search", "--text", files[0], "--model", tmp_path, "--compressor", "edge_pool")
    assert "compressor of its own" in printed


def test_training_on_nothing_is_refused(tmp_path: Path, files: list[str]) -> None:
    options = ("--text", files[0], "--save", str(tmp_path / "m"), "--candidates", "1")
    assert "at least" in refused("claims.search_training", *options)


def test_a_file_of_another_form_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"question": "Who?", "answer": "He"}\n', encoding="utf-8")
    printed = refused("claims.search", "--text", path, "--methods", "bm25")
    assert f"{path.name}:1: not a question with paragraphs" in printed


def test_literals(tmp_path: Path, backbone_folder: Path) -> None:
    """One novel of short sentences; what is asked for letter by letter is found by words, and so by both."""
    novel = tmp_path / "novel.txt"
    novel.write_text("".join(f"Then word{i} came, and it was day. " for i in range(3000)), encoding="utf-8")
    result = tmp_path / "result.json"
    done = process(
        "claims.literals", "--text", str(novel), "--backbone", str(backbone_folder), "--ratio", "4", "--documents", "1",
        "--leaves", "20", "--leaf-tokens", "128", "--codes", "3", "--json", str(result),
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    rows = {(row["asked"], row["method"]): row for row in json.loads(result.read_text())["rows"]}
    assert len(rows) == 9 and all(18 <= row["leaves"] <= 20 for row in rows.values())
    for (asked, method), row in rows.items():
        assert row["queries"] == (3 if asked == "code in the prose" else 5)
        assert 0 <= row["hit@1"] <= row["hit@5"] <= 1 and row["hit@1"] <= row["mrr"] <= 1
        if asked == "code in the prose" and method != "likelihood":
            assert row["hit@1"] == 1
