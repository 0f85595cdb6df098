"""Every benchmark script runs on any text and backbone, and writes what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
RECALL_ROW = {
    "text", "ratio", "precision", "segments", "exact_match", "exact_match_corrected", "correction_bits_per_token"
}  # fmt: skip
THROUGHPUT_ROW = {"path", "tokens_per_second", "relative_to_plain", "peak_mib"}
RETENTION_ROW = {
    "method", "ratio", "nll_nothing", "nll_memory", "nll_last_n", "nll_full", "retained_gain", "train_seconds",
    "train_tokens",
}  # fmt: skip


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(" ".join(f"word{i} of the text" for i in range(4000)), encoding="utf-8")
    return path


def run(script: str, text: Path, backbone: Path, *more: str, fails: bool = False) -> dict[str, Any]:
    result = text.parent / "result.json"
    command = [sys.executable, str(SCRIPTS / script), "--text", str(text), "--backbone", str(backbone)]
    command += ["--dtype", "float32", "--threads", "1", "--json", str(result), *more]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if fails:
        assert done.returncode == 2 and "Traceback" not in done.stderr
        return {"printed": " ".join(done.stdout.split())}
    assert done.returncode == 0, done.stderr[-2000:]
    written: dict[str, Any] = json.loads(result.read_text())
    assert {"command", "commit", "seed", "hardware", "rows"} <= set(written)
    assert written["rows"]
    return written


def test_recall(text: Path, backbone_folder: Path) -> None:
    sizes = ["--segments", "3", "--curve-segments", "2", "--decoder-tokens", "1024"]
    written = run("recall.py", text, backbone_folder, "--ratio", "2", "8", *sizes)
    assert all(set(row) >= RECALL_ROW for row in written["rows"])
    assert {(r["text"].split("/")[-1], r["ratio"], r["precision"]) for r in written["rows"]} == {
        (t, r, p) for t in ("words", "random") for r in (2, 8) for p in ("float16", "int8")
    }
    assert all(row["exact_match_corrected"] == 1 for row in written["rows"])
    (spelt,) = written["autoregressive"]
    # One step teaches nothing: no text comes back by itself, all of them by corrections.
    assert (spelt["exact_match"], spelt["exact_match_corrected"]) == (0, 1) and spelt["correction_bits_per_token"] > 1
    assert {row["coupling"] for row in written["inverse"]} == {
        "PositionBinding", "AttentionCoupling", "TransformerCoupling"
    }  # fmt: skip


def test_a_missing_text_is_one_clear_line(text: Path, backbone_folder: Path) -> None:
    printed = run("recall.py", text.with_name("nothing.txt"), backbone_folder, "--ratio", "4", fails=True)["printed"]
    assert "error:" in printed and "no such file" in printed


@pytest.mark.slow
def test_throughput(text: Path, backbone_folder: Path) -> None:
    more = ("--ratio", "8", "--batch", "2", "--repeats", "1", "--length", "600", "1200")
    written = run("throughput.py", text, backbone_folder, *more)
    assert all(set(row) >= THROUGHPUT_ROW for row in written["rows"] if "tokens" not in row)
    assert [row["tokens"] for row in written["rows"] if "tokens" in row] == [600, 1200]
    kept = {(row["couplings"], row["reversible"]): row["activation_mib"] for row in written["activation"]}
    assert kept[16, True] == kept[1, True] and kept[16, False] > 8 * kept[1, False]


@pytest.mark.slow
def test_training_speed(text: Path, backbone_folder: Path) -> None:
    more = ("--ratio", "4", "--batch", "2", "--segment", "16", "--repeats", "2")
    written = run("training_speed.py", text, backbone_folder, *more)
    assert written["dtype"] == "float32" and written["tokens_per_step"] == 64
    bare, step, logits = written["rows"]
    assert bare["relative_to_bare"] == 1 and all(len(row["turns"]) == 2 for row in written["rows"])
    assert min(row["tokens_per_second"] for row in (bare, step, logits)) > 0


def test_retention_without_training(text: Path, backbone_folder: Path) -> None:
    more = ("--history", "96", "--windows", "2", "--segment", "48", "--stream-ratio", "8", "--precision", "int8")
    written = run("retention.py", text, backbone_folder, "--ratio", "4", "8", *more)
    rows = {(row["method"], row["ratio"]): row for row in written["rows"]}
    assert rows["nothing", 96]["gain"] == 0 and rows["full", 96]["gain"] == 1
    assert {method for method, ratio in rows if ratio == 8} == {
        "selected (1 pass)", "selected (2 passes)", "attention received", "distant attention", "sinks and last",
        "random", "oracle", "selected (1 pass), another passage's", "with words, int8", "selected, streamed",
        "raw last", "raw first",
    }  # fmt: skip
    for row in rows.values():
        assert row["windows"] == len(row["nll_by_window"]) == 2 and row["gain_low"] <= row["gain"] <= row["gain_high"]
    assert rows["raw last", 8]["ahead"] == 0


def test_streams(text: Path, backbone_folder: Path) -> None:
    more = ("--tokens", "480", "--segment", "48", "--slots", "16", "--parts", "2", "--compare-every", "2")
    written = run("streams.py", text, backbone_folder, *more)
    assert [row["segments"] for row in written["rows"]] == [2, 2]
    # Every second segment is compared; the state is full by then, and never larger.
    assert {segment["slots"] for segment in written["segments"]} == {16}
    assert all(segment["nll_state"] > 0 for segment in written["segments"])


STARTUP = ("--ratio", "4", "--counts", "2", "3", "--pieces", "2", "--many", "3", "16", "--repeats")


@pytest.mark.slow
def test_startup_of_two_checkouts(text: Path, backbone_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("r3mem", "lightning_modules", "datamodules", "configs", "pyproject.toml"):
        (other / name).symlink_to(SCRIPTS.parent / name)
    written = run("startup.py", text, backbone_folder, *STARTUP, "2", "--beside", str(other))
    rows = {(row["what"], row["checkout"]): row for row in written["rows"]}
    assert len(rows) == len(written["rows"]) == 2 * 13 and {name for _, name in rows} == {"other", SCRIPTS.parent.name}
    for (what, _), row in rows.items():
        assert len(row["turns"]) == (1 if "of 16 tokens" in what else 2) and 0 < row["least"] <= row["seconds"]
        assert row.get("exit_code", 0) == (2 if what.endswith("fitt") else 0)
    many = [row for row in written["rows"] if row["what"] == "3 texts of 16 tokens, one call"]
    assert all(0 < row["peak_before_mib"] <= row["peak_mib"] for row in many) and len(many) == 2
    assert {"2 texts, one by one", "3 texts, one call", "one memory, 2 pieces", "one memory, one call"} < {
        what for what, _ in rows
    }


def test_startup_beside_no_checkout_is_one_clear_line(text: Path, backbone_folder: Path, tmp_path: Path) -> None:
    printed = run("startup.py", text, backbone_folder, "--beside", str(tmp_path), fails=True)["printed"]
    assert f"{tmp_path} is no checkout of this repository: make one with git worktree add" in printed
    printed = run("startup.py", text, backbone_folder, "--counts", "10000", fails=True)["printed"]
    assert "texts of 80 characters only; give a text that has 10000" in printed


@pytest.mark.slow
def test_retention(text: Path, backbone_folder: Path) -> None:
    more = ("--ratio", "8", "--train-tokens", "3072", "--batch", "2", "--passages", "2")
    written = run("retention_trained.py", text, backbone_folder, *more, "--share", "0.5", "--stream-tokens", "2048")
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
    written = run("retention_trained.py", text, backbone_folder, *budget, *methods, "--share", "0")
    assert len(written["rows"]) == len({row["nll_memory"] for row in written["rows"]}) == 8 and {
        row["share"] for row in written["rows"]
    } == {0.0}


def test_packing(text: Path, backbone_folder: Path) -> None:
    sizes = ["--documents", "6", "--shortest", "2", "--longest", "40", "--repeats", "1"]
    written = run("packing.py", text, backbone_folder, "--ratio", "4", *sizes, "--attention", "eager")
    assert len(written["lengths"]) == 6 and max(written["lengths"]) == 40
    rows = {(row["path"], row["layout"]): row for row in written["rows"]}
    assert len(rows) == 6
    for ratio in written["ratios"]:
        padded, packed = rows[ratio["path"], "padded"], rows[ratio["path"], "packed"]
        assert 0 <= packed["padding"] < padded["padding"] < 1 and packed["packed_rows"] < padded["packed_rows"] == 6
        if ratio["path"] != "likelihood":
            assert 0 < ratio["activation_mib"] < 1
