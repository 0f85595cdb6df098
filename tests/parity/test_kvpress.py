"""What is kept of a text against NVIDIA's kvpress, the reference implementation of these methods (0.5.5 was tested).

The configured peers (``configs/model``) and the presses get the same model, text and budget. What each keeps is read
from its results: kept keys are looked up among the text's keys, per layer and head. kvpress needs transformers below
5.3, so that these tests run with the oldest versions (``make test-oldest``).

Shape legend: B batch, N text tokens, K kept, L layers, H heads of keys and values, E width of a head.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from r3mem import Backbone, Segments
from r3mem.compressors import SelectedKeyValues
from r3mem.plain_data.components import build
from tests.battery.compressor import random_text
from tests.tiny_models import KEY_VALUE_HEADS, LAYERS, WIDTH, tiny_model
from tests.tiny_run import CONFIGS

N_TEXT, RATIO = 96, 4
KEPT = N_TEXT // RATIO
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def kvpress() -> Iterator[ModuleType]:
    """The package; it wraps transformers' attention for all when it is imported, which is undone behind these tests."""
    if importlib.util.find_spec("kvpress") is None:
        pytest.skip("kvpress is installed for `make test-oldest` alone: it needs transformers below 5.3")
    usual = dict(ALL_ATTENTION_FUNCTIONS.items())
    yield importlib.import_module("kvpress")
    for name, function in usual.items():
        ALL_ATTENTION_FUNCTIONS[name] = function


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone(lora_rank=0).eval()


def configured(name: str) -> SelectedKeyValues:
    """A peer as it is shipped, at the tiny model's width; keys stay as they stand in the text."""
    shipped = yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text())["model"]["compressor"]
    shipped["init_args"] |= {"width": WIDTH, "ratio": RATIO, "positions": "original"}
    shipped["init_args"]["scorer"].setdefault("init_args", {})
    made: SelectedKeyValues = build(shipped, SelectedKeyValues)
    return made


def places(kept_LHKE: Tensor, keys_LHNE: Tensor) -> Tensor:
    """Where in the text each kept key stands, in rising order: ``LHK``."""
    distance_LHKN = (kept_LHKE[:, :, :, None] - keys_LHNE[:, :, None]).abs().amax(-1)
    nearest_LHK = distance_LHKN.min(-1)
    assert float(nearest_LHK.values.max()) < 1e-4
    return nearest_LHK.indices.sort(-1).values


def cached_keys(cache: DynamicCache) -> Tensor:
    """``LHNE``, of the cache's only row."""
    return torch.stack([layer.keys[0] for layer in cache.layers])


def prefilled(model: PreTrainedModel, text: Segments) -> DynamicCache:
    cache = DynamicCache()
    model(input_ids=text.ids_BN, past_key_values=cache)
    return cache


@torch.no_grad()
def pressed(press: Any, text: Segments, attention: str) -> Tensor:
    """Places ``LHK`` that a press keeps."""
    model = tiny_model()
    model.set_attn_implementation(attention)
    keys_LHNE = cached_keys(prefilled(model, text))
    with press(model):
        cache = prefilled(model, text)
    return places(cached_keys(cache), keys_LHNE)


@torch.no_grad()
def selected(compressor: SelectedKeyValues, backbone: Backbone, text: Segments) -> Tensor:
    """Places ``LHK`` that ours keeps."""
    slots_BKW = compressor(backbone, text, None).slots_BKD
    layout = backbone.key_values
    none_BK = torch.zeros(slots_BKW.shape[:2], dtype=torch.long)
    pairs = layout.pairs(slots_BKW[..., : layout.width], none_BK)
    return places(torch.stack([keys_BHKE[0] for keys_BHKE, _ in pairs]), cached_keys(prefilled(backbone.base, text)))


@pytest.mark.parametrize(
    ("name", "press", "options", "attention"),
    [
        ("streaming_llm", "StreamingLLMPress", {"n_sink": "compressor.sinks"}, "sdpa"),
        ("h2o", "ObservedAttentionPress", {}, "eager"),
        ("snapkv", "SnapKVPress", {"window_size": "window", "kernel_size": "kernel"}, "eager"),
        ("snapkv", "SnapKVPress", {"window_size": "window", "kernel_size": "kernel"}, "sdpa"),
        (
            "expected_attention",
            "ExpectedAttentionPress",
            {"n_future_positions": "ahead", "n_sink": "sinks", "epsilon": "epsilon"},
            "sdpa",
        ),
    ],
)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_is_kept(
    name: str, press: str, options: dict[str, str], attention: str, seed: int, kvpress: ModuleType, backbone: Backbone
) -> None:
    """Position by position, in each layer and head."""
    compressor, text = configured(name), random_text([N_TEXT], seed)
    given = {
        option: getattr(compressor if ours.startswith("compressor.") else compressor.scorer, ours.split(".")[-1])
        for option, ours in options.items()
    }
    kept_LHK = pressed(getattr(kvpress, press)(compression_ratio=1 - 1 / RATIO, **given), text, attention)
    assert kept_LHK.shape == (LAYERS, KEY_VALUE_HEADS, KEPT)
    assert torch.equal(selected(compressor, backbone, text), kept_LHK)


@pytest.mark.parametrize("epsilon", [0.02, 0.5])
def test_expected_attention_with_epsilon(epsilon: float, kvpress: ModuleType, backbone: Backbone) -> None:
    compressor, text = configured("expected_attention"), random_text([N_TEXT])
    compressor.scorer.epsilon = epsilon
    press = kvpress.ExpectedAttentionPress(compression_ratio=1 - 1 / RATIO, epsilon=epsilon)
    assert torch.equal(selected(compressor, backbone, text), pressed(press, text, "sdpa"))


@torch.no_grad()
@pytest.mark.parametrize("chunk", [2048, 40])
@pytest.mark.parametrize("seed", SEEDS)
def test_kvzip(
    chunk: int, seed: int, kvpress: ModuleType, backbone: Backbone, backbone_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The press lets the heads of a layer compete for places, ours gives each head its own number of them.

    So scores are compared, what ours keeps with the press's scores head by head, and what the press keeps with ours by
    the press's rule.
    """
    compressor, text = configured("kvzip"), random_text([N_TEXT], seed)
    compressor.scorer.chunk = chunk
    scores: list[Tensor] = []
    compress = kvpress.KVzipPress.compress_post

    def noted(press: Any, model: PreTrainedModel) -> None:
        scores.append(press.score_val[:, 0].clone())
        compress(press, model)

    monkeypatch.setattr(kvpress.KVzipPress, "compress_post", noted)
    model = tiny_model()
    # The tokenizer is read from where the model says that it is from.
    model.config._name_or_path = str(backbone_folder)
    press = kvpress.KVzipPress(
        compression_ratio=1 - 1 / RATIO, layerwise=True, n_sink=compressor.sinks, chunk_size=chunk
    )
    with press(model):
        prefilled(model, text)
    (theirs_LHN,) = scores
    observed = backbone(text, observe=True).attention
    ours_LHN = compressor.scorer(observed)[0]
    torch.testing.assert_close(ours_LHN, theirs_LHN, atol=1e-6, rtol=1e-4)

    theirs_LHN[..., : compressor.sinks] = 2
    best_LHK = theirs_LHN.topk(KEPT).indices.sort(-1).values
    assert torch.equal(selected(compressor, backbone, text), best_LHK)

    ours_LHN[..., : compressor.sinks] = 2
    for layer, ours_HN in zip(model.model.layers, ours_LHN, strict=True):
        dropped_HN = torch.zeros(ours_HN.shape, dtype=torch.bool)
        _, head, place = layer.self_attn.masked_key_indices
        dropped_HN[head, place] = True
        kept_HN = torch.zeros_like(dropped_HN)
        kept_HN.view(-1)[ours_HN.reshape(-1).topk(KEPT * KEY_VALUE_HEADS).indices] = True
        assert torch.equal(kept_HN, ~dropped_HN)
