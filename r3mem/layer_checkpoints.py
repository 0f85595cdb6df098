"""Gradient checkpointing of decoder layers: of a pass only their inputs are kept, the rest is computed again.

transformers' own (``gradient_checkpointing_enable``) puts a layer's hooks inside what is computed again. Ours, by
which prefixes enter and passes end (``r3mem/layer_hooks.py``), are gone by then, and the layer would be computed again
without them. So a layer's ``forward`` is what is checkpointed, and its hooks, ours as well as FSDP's, stand outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.utils.checkpoint import checkpoint

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
    found = _Adapters(layer)
    return checkpoint(run, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), found), **kwargs)


class _Adapters(AbstractContextManager[None]):
    """Inside, a layer's adapters are on or off as they were when this was made.

    A pass may have them off, and its backward pass comes when they are on again.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.adapters = [module for module in layer.modules() if isinstance(module, LoraLayer)]
        self.off = [module.disable_adapters for module in self.adapters]

    def __enter__(self) -> None:
        self.before = [module.disable_adapters for module in self.adapters]
        self._switch(self.off)

    def __exit__(self, *_: object) -> None:
        self._switch(self.before)

    def _switch(self, off: list[bool]) -> None:
        for module, wanted in zip(self.adapters, off, strict=True):
            if module.disable_adapters != wanted:
                trained = [(p, p.requires_grad) for p in module.parameters()]
                module.enable_adapters(not wanted)
                for parameter, requires_grad in trained:  # PEFT changes that too.
                    parameter.requires_grad_(requires_grad)
