"""Backbones in 4 bits: what is said where bitsandbytes is missing, and what holds where it is there.

Shape legend: B batch, N text tokens, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, R3Mem, Segments
from r3mem.backbone import four_bit
from r3mem.backbone import source as backbone_source
from r3mem.compressors import VirtualTokens
from r3mem.errors import extras
from r3mem.objectives import forward_nll
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.tiny_models import LAYERS, VOCABULARY, tiny_model

# Of the layers' inputs, whose multiples bitsandbytes needs; the tiny models of the other tests are half as wide.
WIDTH = 64
REASON = "4-bit weights need bitsandbytes: pip install 'r3mem[quantised]'"
ROWS = [[5, 200, 7, 31, 90, 14, 15], [65, 66, 67, 68], [3]]


def on_disk(config: PretrainedConfig, folder: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    """A random model on disk, where bitsandbytes is installed."""
    pytest.importorskip("bitsandbytes", reason=REASON)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> str:
    """With linear layers, and with the transposed ones of the GPT-2."""
    shape = {"vocab_size": VOCABULARY, "initializer_range": 0.1, "bos_token_id": None, "eos_token_id": 256}
    if request.param == "gpt2":
        return on_disk(GPT2Config(n_embd=WIDTH, n_layer=LAYERS, n_head=4, **shape), tmp_path, byte_tokenizer)
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, **shape,
    )  # fmt: skip
    return on_disk(config, tmp_path, byte_tokenizer)


def test_a_missing_bitsandbytes_is_named(backbone_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"load_in_4bit needs bitsandbytes .*: pip install 'r3mem\[quantised\]'"):
        Backbone(str(backbone_folder), load_in_4bit=True)
    assert Backbone(str(backbone_folder)).load_in_4bit is False


@pytest.mark.parametrize("kind", [ImportError, RuntimeError, NotImplementedError])
def test_what_bitsandbytes_cannot_do_here_is_said(
    kind: type[Exception], backbone_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any, **options: Any) -> None:
        raise kind("None of the available devices are supported\nby this version")

    monkeypatch.setattr(extras, "find_spec", lambda _: True)
    monkeypatch.setattr(backbone_source.AutoModelForCausalLM, "from_pretrained", refuses)
    with pytest.raises(ConfigError, match=r"not quantise.*\(None of the available.*supported\): pip install"):
        Backbone(str(backbone_folder), load_in_4bit=True)
    with pytest.raises(kind):
        Backbone(str(backbone_folder))


def test_what_transformers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: True)
    config = four_bit.four_bit_options(torch.bfloat16)["quantization_config"]
    assert config.load_in_4bit and config.bnb_4bit_quant_type == "nf4" and config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


def nll(backbone: Backbone) -> Tensor:
    text = Segments.pad(ROWS)
    total, count = forward_nll(backbone(text).logits_BNV, text, text.lengths_B > 0)
    return total / count


def frozen_bytes(backbone: Backbone) -> int:
    """Of the layers' matrices."""
    matrices = [p for p in backbone.layers.parameters() if not p.requires_grad and p.dim() > 1]
    return sum(p.untyped_storage().nbytes() for p in matrices)


@torch.no_grad()
def test_the_model_is_that_of_its_rounded_weights(folder: str) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    whole, four = (Backbone(folder, "float32", 0, load_in_4bit=on).eval() for on in (False, True))
    text, rounded = Segments.pad(ROWS), 0
    original_BNV = whole(text).logits_BNV
    modules = dict(whole.base.named_modules())
    for name, module in four.base.named_modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is None:
            continue
        weight, same = modules[name].weight, functional.dequantize_4bit(module.weight, state)
        same = same if same.shape == weight.shape and isinstance(modules[name], torch.nn.Linear) else same.T
        assert 0.05 < (same - weight).norm() / weight.norm() < 0.12, name
        weight.copy_(same)
        rounded += 1
    assert rounded >= 4 * LAYERS
    for expected_BNV, agrees in ((whole(text).logits_BNV, True), (original_BNV, False)):
        expected, got = expected_BNV[text.mask_BN], four(text).logits_BNV[text.mask_BN]
        assert bool((got - expected).norm() / expected.norm() < 1e-4) is agrees


@torch.no_grad()
def test_layers_take_a_quarter_of_the_memory_and_can_be_packed(folder: str) -> None:
    whole, four = (Backbone(folder, "bfloat16", 4, load_in_4bit=on).eval() for on in (False, True))
    assert 0.24 < frozen_bytes(four) / frozen_bytes(whole) < 0.26 and four.embedding_VD.dtype == torch.bfloat16
    text = Segments.pad(ROWS)
    padded = four(text).logits_BNV[text.mask_BN].float()
    four.pack = 16
    assert (four(text).logits_BNV[text.mask_BN].float() - padded).norm() / padded.norm() < 0.03
    assert len(four.generate(ROWS, max_new_tokens=2)) == len(ROWS)


def test_memories_of_the_quantised_and_the_whole_backbone_are_told_apart(folder: str) -> None:
    whole, four, again = (Backbone(folder, lora_rank=0, load_in_4bit=on).fingerprint for on in (False, True, True))
    assert four == again != whole


def test_adapters_learn_before_and_after_an_evaluation(folder: str) -> None:
    backbone = Backbone(folder, "float32", 4, load_in_4bit=True)
    parameters = [p for _, p in backbone.adapter_parameters()]
    optimizer, losses = torch.optim.AdamW(parameters, 1e-2), []
    for step in range(4):
        loss = nll(backbone.train())
        loss.backward()
        losses.append(float(loss.detach()))
        # The second half of an adapter starts at zero, so that the first has no gradient in the first step.
        reached = [name for name, p in backbone.adapter_parameters() if p.grad.abs().sum() > 0]
        assert len(reached) == (len(parameters) // 2 if step == 0 else len(parameters)), step
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            nll(backbone.eval())
    assert losses == sorted(losses, reverse=True)
    assert all(not p.requires_grad for name, p in backbone.named_parameters() if ".lora_" not in name)


def test_a_saved_model_comes_back_in_four_bits(folder: str, tmp_path: Path) -> None:
    stack = ReversibleStack([PositionBinding(WIDTH, 4, 0.5)])
    compressor = VirtualTokens(WIDTH, 4, write_layer=2, read_layer=1)
    model = R3Mem(Backbone(folder, "float32", 4, load_in_4bit=True), compressor, stack).eval()
    model.save_pretrained(tmp_path / "saved")
    loaded = R3Mem.from_pretrained(tmp_path / "saved")
    assert loaded.backbone.load_in_4bit and loaded.fingerprint == model.fingerprint
    ids = ROWS[0] * 5
    assert loaded.recall_ids(model.retain(ids)) == ids


def test_widths_that_come_out_wrong_are_refused(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    folder = on_disk(tiny_model().config, tmp_path, byte_tokenizer)
    with pytest.raises(ConfigError, match=r"q_proj of LlamaForCausalLM reads 32 numbers.*multiple of 64"):
        Backbone(folder, load_in_4bit=True)
