"""What a language model is made of, found by structure and not by family: its layers, its body, its fingerprint."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r3mem.errors import ConfigError


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers, found as the module list that is as long as the configuration says."""
    depth = model.config.num_hidden_layers
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not found:
        raise ConfigError(f"{type(model).__name__} has no list of {depth} decoder layers; it cannot be a backbone")
    return found[0]


def body(model: PreTrainedModel) -> nn.Module:
    """The model without its head: what gives the states that the head reads, the final norm applied."""
    found: nn.Module = model.base_model
    if found is model:
        raise ConfigError(f"{type(model).__name__} has no body apart from its head; it cannot be a backbone")
    return found


def head(model: PreTrainedModel) -> nn.Module:
    """What makes logits of the body's states."""
    found: nn.Module | None = cast(Any, model).get_output_embeddings()
    if found is None:
        raise ConfigError(f"{type(model).__name__} has no head apart from its body; set pack to null")
    return found


def digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """A short digest of the architecture, a sample of every weight, and the vocabulary.

    Weights count as they are held: in another precision or quantised to 4 bits, a model writes other memories and reads
    others back, so that it is another.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(type(model).__name__.encode())
    # What a quantised layer keeps beside its weight is named by its library's version, and follows from the weight.
    held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, weight in model.state_dict().items():
        if name not in held:
            continue
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].to("cpu", torch.float32)
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    digest.update(repr(vocabulary).encode())
    return digest.hexdigest()
