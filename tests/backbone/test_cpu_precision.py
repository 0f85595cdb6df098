"""Precision by trial: what `auto` is, what is told of a slow one, and that memories of one are read in the other."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, R3Mem, Segments
from r3mem.backbone.cpu_precision import fastest, is_slow, slowdown
from tests.tiny_models import tiny_model, tiny_r3mem

HALF, WHOLE = torch.bfloat16, torch.float32


@pytest.fixture
def saved(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> str:
    tiny_model().save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def machine(monkeypatch: pytest.MonkeyPatch, times: float, gpu: bool = False) -> None:
    """A machine whose CPU takes so many times as long in half precision."""
    slowdown.cache_clear()
    for module in ("cpu_precision", "source"):
        monkeypatch.setattr(f"r3mem.backbone.{module}.slowdown", lambda _: times)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)


@pytest.mark.parametrize(
    ("times", "gpu", "found", "slow"),
    [
        (0.2, False, "bfloat16", False),
        (1.1, False, "float32", False),
        (1.7, False, "float32", True),
        (8.0, True, "bfloat16", False),
    ],
)
def test_which_machines(monkeypatch: pytest.MonkeyPatch, times: float, gpu: bool, found: str, slow: bool) -> None:
    machine(monkeypatch, times, gpu)
    assert fastest() == found and is_slow(HALF) is slow and not is_slow(WHOLE)


@pytest.mark.parametrize("slow", [WHOLE, HALF])
def test_the_faster_is_found_by_trying(monkeypatch: pytest.MonkeyPatch, slow: torch.dtype) -> None:
    """Of the repeats the best counts: another process may hold one up."""
    calls = []

    def seconds(states_MD: torch.Tensor, weight_ID: torch.Tensor) -> float:
        assert states_MD.dtype == weight_ID.dtype
        calls.append(states_MD.dtype)
        if len(calls) in (3, 6):
            return 100.0
        return 3.0 if states_MD.dtype == slow else 1.5

    monkeypatch.setattr("r3mem.backbone.cpu_precision._there_and_back", seconds)
    slowdown.cache_clear()
    try:
        assert slowdown(HALF) == slowdown(HALF) == (2.0 if slow == HALF else 0.5)
    finally:
        slowdown.cache_clear()
    assert set(calls) == {WHOLE, HALF} and len(calls) < 30


def test_trying_takes_a_moment() -> None:
    slowdown.cache_clear()
    began = time.perf_counter()
    assert 0 < slowdown(HALF) < float("inf")
    assert time.perf_counter() - began < 5  # Milliseconds.


def test_a_slow_precision_is_told(monkeypatch: pytest.MonkeyPatch, saved: str) -> None:
    machine(monkeypatch, 8.0)
    with pytest.warns(UserWarning, match=r"8.0 times as long in bfloat16.*dtype auto or float32"):
        Backbone(saved, dtype="bfloat16", lora_rank=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Backbone(saved, dtype="float32", lora_rank=0)
        Backbone(saved, dtype="auto", lora_rank=0)
        machine(monkeypatch, 0.2)
        Backbone(saved, dtype="bfloat16", lora_rank=0)


@torch.no_grad()
def test_a_memory_of_one_machine_is_read_on_another(
    monkeypatch: pytest.MonkeyPatch, saved: str, tmp_path: Path
) -> None:
    """Written in float32, read by the saved model on a machine that chooses bfloat16, and the other way round."""
    machine(monkeypatch, 8.0)
    model = tiny_r3mem(Backbone(saved)).eval()
    assert model.backbone.dtype == "auto" and model.backbone.compute == WHOLE
    memory = model.retain("Sir Launcelot")
    model.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "r3mem.json").read_text())["backbone"]["init_args"]["dtype"] == "auto"
    machine(monkeypatch, 0.2)
    other = R3Mem.from_pretrained(tmp_path / "model")
    assert other.backbone.compute == HALF and other.fingerprint == model.fingerprint
    assert other.recall(memory) == "Sir Launcelot" == model.recall(other.retain("Sir Launcelot"))
    text = Segments.pad([other.tokens("rode forth")])
    there, here = (m.likelihood(text, m.state(memory)).float() for m in (model, other))
    assert torch.allclose(there, here, atol=0.05 * float(there.abs().max()))


def test_an_unknown_precision_is_refused(saved: str) -> None:
    with pytest.raises(ConfigError, match="'int8' is unknown; choose one of auto, float32"):
        Backbone(saved, dtype="int8")
