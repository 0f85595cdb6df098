"""Half precision on CPUs that compute it slowly: told where a backbone is loaded, and left by the quickstart."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone
from r3mem.cpu_precision import half_is_slow
from tests.tiny_models import tiny_model


@pytest.fixture
def saved(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> str:
    tiny_model().save_pretrained(tmp_path)
    byte_tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def machine(monkeypatch: pytest.MonkeyPatch, name: str, capability: str, gpu: bool = False) -> None:
    monkeypatch.setattr("platform.machine", lambda: name)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)


@pytest.mark.parametrize(
    ("name", "capability", "gpu", "slow"),
    [
        ("x86_64", "AVX2", False, True),
        ("AMD64", "DEFAULT", False, True),
        ("x86_64", "AVX512", False, False),
        ("x86_64", "AVX2", True, False),
        ("aarch64", "DEFAULT", False, False),
    ],
)
def test_which_machines(monkeypatch: pytest.MonkeyPatch, name: str, capability: str, gpu: bool, slow: bool) -> None:
    machine(monkeypatch, name, capability, gpu)
    assert half_is_slow() is slow


def test_a_slow_precision_is_told(monkeypatch: pytest.MonkeyPatch, saved: str) -> None:
    machine(monkeypatch, "x86_64", "AVX2")
    with pytest.warns(UserWarning, match="several times as long in bfloat16.*dtype float32"):
        Backbone(saved, lora_rank=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Backbone(saved, dtype="float32", lora_rank=0)
        machine(monkeypatch, "x86_64", "AVX512")
        Backbone(saved, lora_rank=0)


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_the_quickstart_trains_in_what_is_fast(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capability: str
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import quickstart

    machine(monkeypatch, "x86_64", capability)
    given: list[str] = []
    monkeypatch.setattr("lightning_modules.cli.main", given.extend)
    quickstart.trained(tmp_path, ["--trainer.max_steps", "1"])
    assert ("--model.backbone.init_args.dtype" in given) is (capability == "AVX2")
    assert given[-2:] == ["--trainer.max_steps", "1"]
