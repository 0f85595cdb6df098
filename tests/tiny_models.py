"""Models small enough for a test: random language models of four families (3 layers, 32 wide, 258 tokens) and R3Mem."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from r3mem import Backbone, Memory, R3Mem
from r3mem.compressors import VirtualTokens
from r3mem.hierarchy import Flat
from r3mem.reversible import Coupling, PositionBinding, ReversibleStack

WIDTH, LAYERS, VOCABULARY = 32, 3, 258
# Of the Llama and the Qwen2.
KEY_VALUE_HEADS, HEAD_WIDTH = 2, 8
RATIO, SEGMENT = 4, 16
TEXT = "Sir Launcelot forthwith drew his sword -- naïve, 24 € -- and spake 漢字.\n"
FAMILIES = ("llama", "gpt2", "qwen2", "gpt_neox")


def _config(family: str) -> PretrainedConfig:
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "max_position_embeddings": 1024, "bos_token_id": None, "eos_token_id": 256,
        "initializer_range": 0.2,
    }  # fmt: skip
    if family == "gpt2":
        return GPT2Config(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=4, n_positions=1024, bos_token_id=None,
            eos_token_id=256, initializer_range=0.2,
        )  # fmt: skip
    if family == "gpt_neox":
        return GPTNeoXConfig(**shape)
    return {"llama": LlamaConfig, "qwen2": Qwen2Config}[family](num_key_value_heads=KEY_VALUE_HEADS, **shape)


def tiny_model(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A model with random weights, biases too: a bias that stays zero would hide where it is forgotten."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(family))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
    return model.eval()


def awaken_adapters(backbone: Backbone, seed: int = 5) -> None:
    """Give the adapters' zero halves values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in backbone.adapter_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def awaken_coupling(coupling: Coupling) -> Coupling:
    """Give a coupling's weights values; output projections start at zero, which hides gradients of what lies before."""
    for parameter in coupling.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return coupling


def tiny_r3mem(backbone: Backbone, ratio: int = RATIO, share: float = 0.5, **options: Any) -> R3Mem:
    """A model around a tiny backbone: segments of 16 tokens, half of every slot for the words."""
    return R3Mem(
        backbone,
        VirtualTokens(WIDTH, ratio, write_layer=2, read_layer=1),
        ReversibleStack([PositionBinding(WIDTH, ratio, share)]),
        Flat(SEGMENT),
        **options,
    )


def same_memory(first: Memory, second: Memory) -> bool:
    """Whether two memories are equal bit for bit."""
    fields = ("precision", "share_dims", "ratio", "corrections", "digests", "fingerprint", "wrong")
    tensors = ("data_TKD", "share_scale_TK", "rest_scale_TK", "lengths_T")
    return all(getattr(first, f) == getattr(second, f) for f in fields) and all(
        torch.equal(getattr(first, t), getattr(second, t)) for t in tensors
    )
