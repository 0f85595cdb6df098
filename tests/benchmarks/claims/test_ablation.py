"""The ablation trains and evaluates every hierarchy for as many tokens, and writes what it promises."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.benchmarks.scripts import process

SCRIPT = "claims.ablation"
ROW = {
    "hierarchy", "nll_nothing", "nll_memory", "nll_full", "retained_gain", "positions", "passages", "leaves", "queries",
    "memory_recall@1", "memory_recall@5", "memory_mrr", "bm25_recall@1", "bm25_recall@5", "bm25_mrr",
    "random_recall@1", "recalled", "generated", "generated_other_memory", "correction_bits_by_level",
    "virtual_tokens_per_text_token", "train_tokens", "train_seconds", "train_steps", "train_queries", "parameters",
}  # fmt: skip
TRAIN_TOKENS = 1500


def write_records(path: Path, seed: int, marked: bool = True) -> Path:
    """Two documents of LitBank's form: bytes are tokens, so these are some 700 tokens long."""
    rows = []
    for d in range(2):
        names = [f"Knight{'abcdefghij'[(i + seed + d) % 10]}" for i in range(24)]
        text = "\n".join(f"{name} rode out at hour {i} ." for i, name in enumerate(names))
        at, entities = 0, []
        for i, name in enumerate(names):
            at = text.index(f"{name} rode out at hour {i} ", at)
            entities.append({"start": at, "end": at + len(name), "type": "PER", "text": name})
        rows.append({"id": f"{seed}{d}", "title": f"book {seed}{d}", "text": text, "entities": entities})
    kept = rows if marked else [{k: v for k, v in row.items() if k != "entities"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    return path


def run(folder: Path, backbone: Path, *more: str) -> subprocess.CompletedProcess[str]:
    given = ["--backbone", backbone, "--device", "cpu", "--ratio", "2", "8", "4", "4", "--no-calibrate", *more]
    return process(SCRIPT, *given, R3MEM_CACHE=str(folder / "cache"))


@pytest.mark.slow
def test_ablation(tmp_path: Path, backbone_folder: Path) -> None:
    result, kept = tmp_path / "result.json", tmp_path / "models"
    texts = ["--text", str(write_records(tmp_path / "held.jsonl", 5))]
    few = ["--documents", "1", "--leaves", "2", "--passages", "1", "--batch", "2", "--save", str(kept)]
    few += ["--json", str(result), "--train-tokens", str(TRAIN_TOKENS), "--document-tokens", "700"]
    few += ["--compressor", "edge_pool", "--write-layer", "2", "--read-layer", "1", "--attention", "eager"]
    done = run(tmp_path, backbone_folder, "--train", str(write_records(tmp_path / "train.jsonl", 0)), *texts, *few)
    assert done.returncode == 0, done.stderr[-3000:]
    written = json.loads(result.read_text())
    rows, other = ({r["hierarchy"]: r for r in written["rows"] if r["seed"] == seed} for seed in (0, 1))
    assert other.keys() == rows.keys() and other["flat"]["curve"] != rows["flat"]["curve"]
    for mean in written["means"]:
        pair = sorted([rows[mean["hierarchy"]]["memory_mrr"], other[mean["hierarchy"]]["memory_mrr"]])
        assert mean["seeds"] == 2 and mean["memory_mrr"] == pytest.approx(sum(pair) / 2)
        assert mean["memory_mrr_spread"] == pytest.approx((pair[1] - pair[0]) / 2)
    assert set(rows) == {"flat", "multi_level", "refined"} and all(set(row) >= ROW for row in rows.values())
    assert all(TRAIN_TOKENS <= row["train_tokens"] < 2 * TRAIN_TOKENS for row in rows.values())
    # No level embedding where there is one level; otherwise the models are alike.
    assert rows["multi_level"]["parameters"] == rows["refined"]["parameters"] == rows["flat"]["parameters"] + 3 * 32
    for row in rows.values():
        assert row["queries"] == 2 and row["passages"] == 1
        # Recall is exact, and no window or sentence is shorter than a name by more than the cuts.
        assert row["recalled_leaves"] > 0.5
    assert rows["refined"]["recalled"] == dict.fromkeys(("document", "paragraph", "entity"), 1.0)
    assert "beam_mrr" in rows["refined"] and "beam_mrr" not in rows["flat"]
    # Loaded, not trained again: the same figures.
    done = run(tmp_path, backbone_folder, *texts, *few, "--hierarchies", "refined", "--seeds", "0")
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads(result.read_text())["rows"][0]
    assert {k: again[k] for k in ("nll_memory", "memory_mrr", "train_tokens", "train_seconds")} == {
        k: rows["refined"][k] for k in ("nll_memory", "memory_mrr", "train_tokens", "train_seconds")
    }


@pytest.mark.slow
def test_without_training_the_start_is_evaluated(tmp_path: Path, backbone_folder: Path) -> None:
    result = tmp_path / "result.json"
    few = ["--text", str(write_records(tmp_path / "held.jsonl", 5)), "--documents", "1", "--leaves", "1"]
    few += ["--passages", "1", "--hierarchies", "multi_level", "--seeds", "0", "--json", str(result)]
    done = run(tmp_path, backbone_folder, *few, "--train-tokens", "0")
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = json.loads(result.read_text())["rows"]
    assert set(row) >= ROW and row["train_steps"] == row["train_tokens"] == 0 and row["curve"] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "marked, more, said",
    [
        (True, (), "nothing to train on"),
        (True, ("--ratio", "4"), "give four"),
        (False, (), "no entities"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(
    tmp_path: Path, backbone_folder: Path, marked: bool, more: tuple[str, ...], said: str
) -> None:
    path = write_records(tmp_path / "texts.jsonl", 0, marked)
    done = run(tmp_path, backbone_folder, "--text", str(path), *more)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert said in " ".join(done.stdout.split())
