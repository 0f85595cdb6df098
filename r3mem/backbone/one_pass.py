"""One pass over ``[read prefix ; text ; write slots]``: laid out, masked, run, and taken apart again.

`Backbone.forward` says what the arguments are, and the picture of the mask stands above `Backbone`.

Shape legend: B batch, P prefix, N text tokens, K write slots, S = P + N + K positions of one pass, D width,
V vocabulary, W numbers of one position's keys and values in all layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r3mem.backbone.attention import LayerAttention, Observed, make_observable, recording
from r3mem.backbone.generation import soft
from r3mem.backbone.key_values import PassCache
from r3mem.backbone.language_model import LanguageModel
from r3mem.backbone.layer_hooks import LayerReached, captured, head_reads, injected, unread
from r3mem.backbone.next_tokens import NextTokens, Scores, logits_of
from r3mem.backbone.packing import Packing
from r3mem.backbone.pass_layout import PassLayout
from r3mem.backbone.pass_masks import PassMasks
from r3mem.backbone.prefix import Prefix
from r3mem.backbone.structure import body, head
from r3mem.errors import ConfigError
from r3mem.memory import Segments
from r3mem.plain_data.by_content import ByContent

#: Whether passes of this thread end in front of the head.
_HEAD_APART: ContextVar[bool] = ContextVar("r3mem_head_apart", default=False)


@dataclass(eq=False, repr=False)
class Pass(ByContent):
    """What one backbone pass gives.

    Attributes:
        scores: Next-token logits ``BNV`` at the text positions, or what makes them; None if not asked for.
        text_BND: Hidden states of the text that enter the captured layer, or None.
        slots_BKD: Hidden states of the write slots that enter the captured layer, or None.
        key_values_BKW: Keys and values of the write slots in all layers, float32, or None; see `KeyValueLayout`.
        opening: The same ``BV`` of the text's first token, behind the prefix's last state; None without such a state.
        attention: What attention did in each layer, or None if not asked for.
    """

    scores: Scores | None
    text_BND: Tensor | None = None
    slots_BKD: Tensor | None = None
    key_values_BKW: Tensor | None = None
    opening: Scores | None = None
    attention: Observed | None = None

    @property
    def logits_BNV(self) -> Tensor | None:
        """Next-token logits at the text positions, or None if not asked for; made when they are first read."""
        return logits_of(self.scores)

    @property
    def opening_BV(self) -> Tensor | None:
        """Logits of the text's first token, or None; made when they are first read."""
        return logits_of(self.opening)


@contextmanager
def heads_apart() -> Iterator[None]:
    """Inside, passes of this thread end in front of a plain frozen head; see `Backbone.head_apart`."""
    token = _HEAD_APART.set(True)
    try:
        yield
    finally:
        _HEAD_APART.reset(token)


def run_pass(
    backbone: LanguageModel, text: Segments, prefix: Prefix | None, slots_BKD: Tensor | None,
    slot_positions_BK: Tensor | None, slot_mask_BK: Tensor | None, capture: int | None, logits: bool,
    slots_after_BK: Tensor | None, key_values: bool, observe: bool,
) -> Pass:  # fmt: skip
    """Run ``[prefix ; text ; slots]`` once; arguments and errors as of `Backbone.forward`."""
    n_text = text.ids_BN.shape[1]
    text_mask_BN = text.mask_BN
    plain = prefix is None and slots_BKD is None and bool((text.lengths_B == n_text).all())
    if slots_BKD is not None and slot_mask_BK is None:
        raise ConfigError("write slots need their positions and their mask")
    embeds = [backbone.embed(torch.where(text_mask_BN, text.ids_BN, 0))]
    n_prefix = n_cached = n_slots = 0
    if prefix is not None:
        n_prefix, n_cached = prefix.n_positions, prefix.n_cached
        embeds.insert(0, soft(prefix, embeds[0]))
    if slots_BKD is not None:
        n_slots = slots_BKD.shape[1]
        embeds.append(slots_BKD.to(embeds[0].dtype))
    inputs: dict[str, Any] = {"inputs_embeds": torch.cat(embeds, 1)}
    layout = PassLayout.of(text, prefix, slot_mask_BK, slot_positions_BK, slots_after_BK)
    backbone.check_positions(layout.positions_BS, layout.valid_BS)
    # Padding may stand beyond the last position; nothing sees it.
    positions_BS = layout.positions_BS.clamp(max=backbone.max_positions - 1)
    cache: PassCache | None = None
    if n_cached or key_values:
        cache = PassCache([] if prefix is None else backbone.front(prefix), n_slots if key_values else 0)
    if (key_values or observe) and not logits and capture is None:
        capture = backbone.output
    if observe:
        _check_observable(backbone, prefix)
    first, end = n_prefix - n_cached, n_prefix - n_cached + n_text
    last_B = prefix.last_B if prefix is not None and first else None
    apart = backbone.plain_head if logits and _HEAD_APART.get() else None
    if apart is not None and apart.weight.requires_grad:
        apart = None  # It was unfrozen since, and its gradient needs the logits.
    packing = None
    recorded: list[LayerAttention] = []
    if backbone.pack is not None and cache is None and not plain and not observe:
        packing = Packing.of(layout, n_prefix, n_text, backbone.pack)
    with ExitStack() as stack:
        if not plain:
            n_queries = inputs["inputs_embeds"].shape[1]
            if packing is not None:
                inputs["inputs_embeds"] = packing.pack(inputs["inputs_embeds"])
                masks = packing.masks(backbone.compute)
                positions = packing.positions_RZ.clamp(max=backbone.max_positions - 1)
                stack.enter_context(head_reads(head(backbone.base), packing.heads(last_B)))
            else:
                masks = PassMasks.build(
                    layout.valid_BS, n_prefix, n_queries, backbone.compute, layout.order_BS, layout.segment_BS
                )
                positions = positions_BS[:, n_cached:]
            inputs |= {"attention_mask": masks.all_layers, "position_ids": positions}
            if prefix is not None:
                stack.enter_context(unread(backbone.above(prefix), masks, type(backbone.base).__name__))
            if prefix is not None and prefix.layer > 0:
                stack.enter_context(injected(backbone.layers, prefix, masks, type(backbone.base).__name__, packing))
        taken: list[Tensor] = []
        behind: list[Tensor] = []
        if capture is not None:
            stack.enter_context(captured(backbone.layers, body(backbone.base), capture, taken, stop=not logits))
        if apart is not None:
            stack.enter_context(captured(backbone.layers, body(backbone.base), backbone.output, behind, stop=True))
        if observe:
            recorded = stack.enter_context(recording())
        output_logits_BSV = output_logits(backbone, inputs, cache)
    made = Pass(None)
    rows_B = torch.arange(len(text.ids_BN), device=backbone.device)
    if apart is not None:
        states_BSD = behind[0] if packing is None else packing.unpack(behind[0])
        made.scores = NextTokens(states_BSD[:, first:end], apart)
        if last_B is not None:
            made.opening = NextTokens(states_BSD[rows_B, last_B], apart)
    elif output_logits_BSV is not None and packing is not None:
        made.scores, made.opening = packing.logits(output_logits_BSV[0], last_B)
    elif output_logits_BSV is not None:
        made.scores = output_logits_BSV[:, first:end]
        if last_B is not None:
            made.opening = output_logits_BSV[rows_B, last_B]
    if observe:
        if len(recorded) != len(backbone.layers):
            raise ConfigError(
                f"{len(recorded)} of {len(backbone.layers)} layers of {type(backbone.base).__name__} run their "
                "attention where it can be observed: a memory of selected keys and values needs all, take another "
                "compressor"
            )
        n_reading = len(backbone.layers) if prefix is None else len(backbone.layers) - len(backbone.above(prefix))
        made.attention = Observed(recorded, layout.valid_BS, positions_BS, text, backbone, made.scores, n_reading)
    if cache is not None and cache.kept:
        made.key_values_BKW = backbone.key_values.flat(cache.kept, positions_BS[:, n_cached + end :])
    if taken:
        states_BSD = taken[0] if packing is None else packing.unpack(taken[0])
        made.text_BND = states_BSD[:, first:end]
        made.slots_BKD = states_BSD[:, end:] if slots_BKD is not None else None
    return made


def output_logits(backbone: LanguageModel, inputs: dict[str, Any], cache: PassCache | None) -> Tensor | None:
    """Logits of every position; None where the pass ended at the captured layer.

    Args:
        backbone: The language model.
        inputs: Of its ``forward``; those that it does not take are left out.
        cache: Has keys and values of a prefix, or takes those of write slots.

    Raises:
        ConfigError: Some layers do not use the cache.
    """
    inputs = {key: value for key, value in inputs.items() if backbone.takes(key)}
    if cache is not None:
        inputs["past_key_values"] = cache
    logits_BSV: Tensor | None = None
    try:
        with torch.autocast(backbone.device.type, dtype=backbone.compute, enabled=backbone.compute != torch.float32):
            logits_BSV = backbone.model(**inputs, use_cache=cache is not None).logits
    except LayerReached:
        pass
    if cache is not None and cache.seen != len(backbone.layers):
        raise ConfigError(
            f"{cache.seen} of {len(backbone.layers)} layers of {type(backbone.base).__name__} used the cache that "
            "holds a memory's keys and values: switch gradient checkpointing of the model off (replay does the same)"
        )
    return logits_BSV


def _check_observable(backbone: LanguageModel, prefix: Prefix | None) -> None:
    """Refuse what cannot be observed.

    Raises:
        ConfigError: Hidden states in front, layers that are computed again, or attention without an interface.
    """
    if prefix is not None and prefix.n_cached != prefix.n_positions:
        raise ConfigError("attention is observed behind memories of keys and values only, not behind hidden states")
    if backbone.gradient_checkpointing and torch.is_grad_enabled():
        raise ConfigError(
            "attention cannot be observed where layers are computed again in the backward pass: switch "
            "gradient_checkpointing off (replay saves memory too)"
        )
    make_observable(backbone.base)
