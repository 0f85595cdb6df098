"""What a language model is made of, found by structure and not by family: its layers, its body, its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from r3mem.backbone.thread_hooks import in_this_thread
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


@torch.no_grad()
def plain_head(model: PreTrainedModel, run: Callable[[], Tensor | None]) -> nn.Linear | None:
    """The head, if it is a frozen linear layer without bias that stands directly between body and logits.

    Args:
        model: The model.
        run: A short pass that gives the model's logits.

    Returns:
        None where states are changed on their way to the head (cut out, scaled), or logits behind it (scaled, capped).
    """
    found = cast(Any, model).get_output_embeddings()
    if type(found) is not nn.Linear or found.bias is not None or found.weight.requires_grad:
        return None
    if model.base_model is model:
        return None
    read: list[Tensor] = []
    given: list[Tensor] = []

    def behind(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        given.append(output if isinstance(output, Tensor) else output[0])

    def instead(_: nn.Module, args: tuple[Any, ...], logits: Tensor) -> Tensor:
        read.extend(args[:1])
        # Far from 0 and of both signs, so that a cap or a factor shows.
        return torch.linspace(-100, 100, logits.numel(), device=logits.device).to(logits.dtype).view_as(logits)

    with ExitStack() as stack:
        stack.callback(in_this_thread(body(model).register_forward_hook, behind))
        stack.callback(in_this_thread(found.register_forward_hook, instead))
        logits = run()
    if logits is None or len(read) != 1 or len(given) != 1 or not torch.equal(read[0], given[0]):
        return None
    expected = torch.linspace(-100, 100, logits.numel(), device=logits.device).to(found.weight.dtype).view_as(logits)
    return found if torch.equal(logits.to(expected.dtype), expected) else None


def backbone_digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """A short digest of the architecture, a sample of every weight, and the vocabulary; adapters do not count.

    Weights count in bfloat16, so that a model is the same in float32: it reads the memories of either precision, and
    words come back the same. Quantised to 4 bits it is another.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(type(model).__name__.encode())
    # What a quantised layer keeps beside its weight is named by its library's version, and follows from the weight.
    held = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, weight in model.state_dict().items():
        if name not in held or ".lora_" in name:
            continue
        flat = weight.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].to("cpu", torch.bfloat16).float()
        name = name.replace(".base_layer.", ".")  # PEFT's name for what carries an adapter.
        digest.update(f"{name}{tuple(weight.shape)}".encode() + sample.numpy().tobytes())
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    digest.update(repr(vocabulary).encode())
    return digest.hexdigest()
