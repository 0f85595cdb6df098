"""Times to the first token are of what they say, and bytes are those of real files and caches."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.systems.latency import Way, cache_bytes, growth_mib, text_of, times
from r3mem import Backbone
from tests.benchmarks.scripts import process, refused
from tests.tiny_models import HEAD_WIDTH, KEY_VALUE_HEADS, LAYERS

SCRIPT = "systems.latency"
TEXT = " ".join(f"word{i} naïve 漢字 of the text" for i in range(200))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def run(text: Path, backbone: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return process(SCRIPT, "--text", text.name, "--backbone", backbone, *more, cwd=text.parent)


def test_latency(text: Path, backbone_folder: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    done = run(
        text, backbone_folder, "--history", "96", "--segment", "48", "--ratio", "8", "--repeats", "2", "--json",
        str(result),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(result.read_text())
    read, *memories = made["rows"]
    n_tokens = len(TEXT.encode()[:96].decode("utf-8", "ignore").encode())
    assert (read["path"], read["positions"], read["times_as_fast"]) == ("the text", n_tokens, 1)
    ways = {(row["path"], row["precision"], row["reach"]) for row in memories}
    assert ways == {("one pass", p, "state") for p in ("float16", "int8")} | {
        ("segments of 48", p, reach) for p in ("float16", "int8") for reach in ("state", "records")
    }
    for row in memories:
        assert row["first_token_ms"] > row["load_ms"] > 0 and row["write_seconds"] > 0 and len(row["seconds"]) == 2
        # Of the second segment's six slots three are copies of the first one's sinks, which are read once.
        assert row["positions"] == (12 if row["path"] == "one pass" else 9)
    for row in made["bytes"]:
        assert row["positions"] == 12 and row["text_utf8"] == n_tokens and row["growth_mib"] >= 0
        assert row["cache_of_all"] == n_tokens * LAYERS * KEY_VALUE_HEADS * HEAD_WIDTH * 2 * 4
        assert row["cache_of_positions"] * n_tokens == row["cache_of_all"] * 12
        assert row["file_int8"] < row["file_float16"]
        # Keys and values of 12 slots in two bytes, and what each was worth.
        assert row["file_float16"] > 12 * LAYERS * KEY_VALUE_HEADS * (2 * HEAD_WIDTH + 1) * 2


def test_a_history_beyond_the_window_is_one_clear_line(text: Path, backbone_folder: Path) -> None:
    printed = refused(SCRIPT, "--text", text, "--backbone", backbone_folder, "--history", 1024, "--ratio", 8)
    assert "--history of at most 9" in printed


def test_bytes_of_a_cache_are_those_that_generating_keeps(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone(lora_rank=0)
    with torch.no_grad():
        cache = backbone.base(torch.arange(20)[None], use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cache_bytes(backbone, 20) == held


def test_growth_sees_what_a_call_held_and_let_go() -> None:
    assert 90 < growth_mib(lambda: torch.ones(100 * 2**18).sum()) < 140
    assert growth_mib(lambda: None) < 10


def test_a_history_ends_with_a_whole_character(text: Path, tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone(lora_rank=0)
    # Byte 15 lies inside of 漢.
    assert TEXT.encode()[13:16].decode() == "漢" and text_of(str(text), backbone, 15) == "word0 naïve "


def test_what_writing_pays() -> None:
    read, fast, slow = (Way({}, 8, lambda: None, "", totals=t, loads=[0.5]) for t in ([8.0, 9.0, 70.0], [3.0], [10.0]))
    fast.about = slow.about = {"write_seconds": 12.0}
    rows = times([read, fast, slow])
    assert (rows[1]["times_as_fast"], rows[1]["pays_after"], rows[1]["load_ms"]) == (3, 2, 500)
    # It never pays to write what is slower to read.
    assert rows[2]["times_as_fast"] == 0.9 and rows[2]["pays_after"] is None
    assert rows[0]["first_token_ms"] == 9000 and "pays_after" not in rows[0]
