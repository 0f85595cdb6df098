"""Gradient checkpointing of decoder layers: of a pass only their inputs are kept, the rest is computed again.

transformers' own (``gradient_checkpointing_enable``) puts a layer's hooks inside what is computed again. Ours, by
which prefixes enter and passes end (``r3mem/backbone/layer_hooks.py``), are gone by then, and the layer would be
computed again without them. So a layer's ``forward`` is what is checkpointed, and its hooks, ours as well as FSDP's,
stand outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from r3mem.backbone.adapters import AdaptersAsNow
from r3mem.errors import ConfigError


def checkpoint_layers(layers: Iterable[nn.Module]) -> None:
    """Have layers keep their inputs only, wherever gradients are on.

    Args:
        layers: The decoder layers.
    """
    for layer in layers:
        layer.forward = MethodType(_forward, layer)


def _forward(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
    run = MethodType(type(layer).forward, layer)
    if not torch.is_grad_enabled():
        return run(*args, **kwargs)
    if any(kwargs.get(name) is not None for name in ("past_key_values", "past_key_value", "layer_past")):
        raise ConfigError(
            "gradient_checkpointing cannot compute a pass again that fills a cache, which memories of keys and values "
            "need: set it to false in the backbone, and replay to true in the training module"
        )
    adapters = AdaptersAsNow()
    return checkpoint(run, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), adapters), **kwargs)
