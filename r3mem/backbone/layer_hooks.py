"""Hooks on the layers of one pass: where a prefix enters, where states are taken out, and which of them the head reads.

Shape legend: B batch, P prefix, S positions of one pass, H of them read by the head, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from r3mem.backbone.packing import Packing
from r3mem.backbone.pass_masks import PassMasks
from r3mem.backbone.prefix import Prefix
from r3mem.backbone.thread_hooks import in_this_thread
from r3mem.errors import ConfigError


class LayerReached(Exception):
    """Ends a pass at the captured layer when nothing above it is needed."""


@contextmanager
def injected(
    layers: nn.ModuleList, prefix: Prefix, masks: PassMasks, model: str, packing: Packing | None = None
) -> Iterator[None]:
    """Inside, the prefix's states enter at their layer and are unseen below it.

    Args:
        layers: The decoder layers.
        prefix: The prefix.
        masks: Attention masks of the pass, below the prefix's layer and from it on.
        model: What the model is called in errors.
        packing: Where the prefix stands if the pass's rows are packed.

    Raises:
        ConfigError: There is no such layer; inside, at the first pass of a model whose layers do not get its mask.
    """
    if prefix.layer >= len(layers):
        raise ConfigError(f"a prefix cannot enter at layer {prefix.layer} of {len(layers)}")
    seen: list[bool] = []

    def hide(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def swap(value: Any) -> Any:
            if value is not masks.all_layers:
                return value
            seen.append(True)
            return masks.below

        return tuple(swap(a) for a in args), {key: swap(value) for key, value in kwargs.items()}

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not seen:
            raise ConfigError(
                f"{model} does not hand its attention mask down to its layers, so virtual "
                "tokens cannot enter at a middle layer; set the compressor's layer to 0"
            )
        if masks.n_queries != masks.below.shape[-1]:
            return None  # A cached step: the prefix has entered before.
        hidden_BSD = args[0] if args else kwargs["hidden_states"]
        states_BPD = prefix.states_BPD.to(hidden_BSD.dtype)
        if packing is not None:
            hidden_BSD = packing.with_prefix(hidden_BSD, states_BPD)
        else:
            states_BPD = states_BPD.repeat_interleave(len(hidden_BSD) // len(states_BPD), 0)
            hidden_BSD = torch.cat([states_BPD, hidden_BSD[:, states_BPD.shape[1] :]], 1)
        return ((hidden_BSD, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden_BSD})

    with ExitStack() as stack:
        for layer in layers[: prefix.layer]:
            stack.callback(in_this_thread(layer.register_forward_pre_hook, hide, with_kwargs=True))
        stack.callback(in_this_thread(layers[prefix.layer].register_forward_pre_hook, enter, with_kwargs=True))
        yield


@contextmanager
def unread(layers: Iterable[nn.Module], masks: PassMasks, model: str) -> Iterator[None]:
    """Inside, some layers read nothing of the prefix.

    Args:
        layers: These layers.
        masks: Attention masks of the pass.
        model: What the model is called in errors.

    Raises:
        ConfigError: Inside: the model's layers do not get its mask.
    """

    def hide(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not any(value is masks.all_layers for value in (*args, *kwargs.values())):
            raise ConfigError(
                f"{model} does not hand its attention mask down to its layers, so that all of them read a memory: set "
                "the compressor's layer_share to 1"
            )
        swapped = [masks.below if value is masks.all_layers else value for value in args]
        return tuple(swapped), {k: masks.below if value is masks.all_layers else value for k, value in kwargs.items()}

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(in_this_thread(layer.register_forward_pre_hook, hide, with_kwargs=True))
        yield


@contextmanager
def captured(layers: nn.ModuleList, body: nn.Module, layer: int, into: list[Tensor], stop: bool) -> Iterator[None]:
    """Inside, the input of a layer (or the last layer's output, or the body's) is kept.

    Args:
        layers: The decoder layers.
        body: The model without its head.
        layer: Which one, 1 to their number; one more is the body's output.
        into: Where the states are put, ``BSD``.
        stop: Whether the pass ends there, by `LayerReached`.

    Raises:
        ConfigError: There is no such layer.
    """
    if not 1 <= layer <= len(layers) + 1:
        raise ConfigError(f"states can be taken at layers 1 to {len(layers)} and behind them, not at {layer}")

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        into.append(args[0] if args else kwargs["hidden_states"])
        if stop:
            raise LayerReached

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        into.append(output if isinstance(output, Tensor) else output[0])
        if stop:
            raise LayerReached

    if layer < len(layers):
        # First of all hooks: where layers are split over processes, one that does not run must not be put together.
        take_out = in_this_thread(layers[layer].register_forward_pre_hook, before, with_kwargs=True, prepend=True)
    else:
        last = layers[-1] if layer == len(layers) else body
        take_out = in_this_thread(last.register_forward_hook, after)
    try:
        yield
    finally:
        take_out()


@contextmanager
def head_reads(head: nn.Module, places_H: Tensor) -> Iterator[None]:
    """Inside, the head reads some positions alone and gives ``1HV``: over a whole vocabulary padding costs as well.

    Args:
        head: What makes logits of states ``BSD``.
        places_H: The positions, in ``BS`` counted through.
    """

    def chosen(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].flatten(0, 1)[places_H][None], *args[1:])

    take_out = in_this_thread(head.register_forward_pre_hook, chosen)
    try:
        yield
    finally:
        take_out()
