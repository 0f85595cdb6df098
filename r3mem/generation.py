"""A prefix in front of every step of transformers' ``generate``: its states, its keys and values, masks and positions.

Shape legend: B batch, P prefix, M of its positions with keys and values, N text tokens, S positions so far, D width, H
heads of keys and values, E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from r3mem.errors import InputError
from r3mem.generation_options import checked_options
from r3mem.layer_hooks import injected, unread
from r3mem.pass_masks import PassMasks
from r3mem.prefix import Prefix
from r3mem.thread_hooks import in_this_thread

if TYPE_CHECKING:
    from r3mem.backbone import Backbone


def soft(prefix: Prefix, like_BND: Tensor) -> Tensor:
    """What stands at the positions of a prefix's states in the input: they, or nothing if they enter higher up."""
    states_BPD = prefix.states_BPD.to(like_BND.dtype)
    return states_BPD if prefix.layer == 0 else torch.zeros_like(states_BPD)


def with_room(prefix: Prefix, embeds_BND: Tensor) -> Tensor:
    """A prefix and a text as input embeddings; keys and values get room, which :func:`generating` takes out again."""
    room_BMD = embeds_BND.new_zeros(len(embeds_BND), prefix.n_cached, embeds_BND.shape[2])
    return torch.cat([room_BMD, soft(prefix, embeds_BND), embeds_BND], 1)


@contextmanager
def generating(backbone: Backbone, prefix: Prefix) -> Iterator[None]:
    """Inside, every step of ``generate`` gets the prefix's mask and positions, the first its keys and values too.

    Args:
        backbone: The language model.
        prefix: The prefix; the input begins :func:`with_room` for it.
    """
    n_prefix, steps = prefix.n_positions, ExitStack()
    front = backbone.front(prefix)

    def lay_out(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = kwargs["inputs_embeds"] if kwargs.get("input_ids") is None else kwargs["input_ids"]
        n_queries = given.shape[1]
        cached = kwargs.get("past_key_values")
        n_before = 0 if cached is None else cached.get_seq_length()
        if kwargs.get("attention_mask") is None:  # Left out by transformers where nothing is padded.
            valid_BS = torch.ones(len(given), n_before + n_queries, dtype=torch.bool, device=given.device)
        else:
            valid_BS = kwargs["attention_mask"].bool()
        copies = len(valid_BS) // len(prefix.start_B)
        if front and n_before == 0:
            cached = DynamicCache() if cached is None else cached
            for layer, pair in enumerate(front):
                keys_BHME, values_BHME = (t.to(given.dtype).repeat_interleave(copies, 0) for t in pair)
                cached.update(keys_BHME, values_BHME, layer)
            n_queries -= prefix.n_cached
            kwargs |= {"past_key_values": cached, "inputs_embeds": given[:, prefix.n_cached :]}
            if kwargs.get("cache_position") is not None:
                kwargs["cache_position"] = kwargs["cache_position"][prefix.n_cached :]
        text_BN = valid_BS[:, n_prefix:]
        text_positions_BN = prefix.start_B.repeat_interleave(copies)[:, None] + (text_BN.cumsum(1) - 1).clamp(min=0)
        positions_BS = torch.cat([prefix.positions_BP.repeat_interleave(copies, 0), text_positions_BN], 1)
        segment_BS = prefix.segments(text_BN.shape[1])
        if segment_BS is not None:
            segment_BS = segment_BS.repeat_interleave(copies, 0)
        backbone.check_positions(positions_BS, valid_BS)
        masks = PassMasks.build(valid_BS, n_prefix, n_queries, backbone.compute, segment_BS=segment_BS)
        steps.close()
        steps.enter_context(unread(backbone.above(prefix), masks, type(backbone.base).__name__))
        if prefix.layer > 0:
            steps.enter_context(injected(backbone.layers, prefix, masks, type(backbone.base).__name__))
        kwargs["attention_mask"] = masks.all_layers
        if backbone.takes("position_ids"):
            kwargs["position_ids"] = positions_BS[:, -n_queries:].clamp(max=backbone.max_positions - 1)
        return args, kwargs

    take_out = in_this_thread(backbone.base.register_forward_pre_hook, lay_out, with_kwargs=True)
    try:
        with steps:
            yield
    finally:
        take_out()


@dataclass
class Continuation:
    """What ``generate`` gave.

    Attributes:
        rows: New tokens, without padding and end mark: of each prompt as many rows as were asked for, in order.
        output: What transformers gave, its ``sequences`` the new tokens alone; None unless it was asked for.
    """

    rows: list[list[int]]
    output: Any = None


def continued(
    backbone: Backbone, prompts: list[list[int]], prefix: Prefix | None, options: dict[str, Any]
) -> Continuation:
    """See :meth:`r3mem.backbone.Backbone.generate`."""
    if not prompts:
        raise InputError("no prompts given: pass at least one")
    empty = next((b for b, prompt in enumerate(prompts) if not prompt), None)
    if empty is not None:
        called = "a prompt" if len(prompts) == 1 else f"prompt {empty} of {len(prompts)}"
        raise InputError(f"{called} is empty: give at least one token for the model to continue")
    if prefix is not None and not prefix.n_positions:
        prefix = None
    options = checked_options(backbone, options, prefix is not None)
    longest = max(len(prompt) for prompt in prompts)
    n_prefix = 0 if prefix is None else prefix.n_positions
    ids_BN = torch.zeros(len(prompts), longest, dtype=torch.long, device=backbone.device)
    mask_BS = torch.zeros(len(prompts), n_prefix + longest, dtype=torch.long, device=backbone.device)
    for b, prompt in enumerate(prompts):
        ids_BN[b, longest - len(prompt) :] = torch.tensor(prompt, device=backbone.device)
        mask_BS[b, n_prefix + longest - len(prompt) :] = 1
    _check_window(backbone, prompts, prefix, options)
    embeds_BSD = backbone.embed(ids_BN)
    inputs = {"input_ids": ids_BN}
    if prefix is not None:
        mask_BS[:, :n_prefix] = prefix.mask_BP
        inputs = {"inputs_embeds": with_room(prefix, embeds_BSD)}
    configured = getattr(backbone.base.generation_config, "eos_token_id", None)
    end = options.get("eos_token_id", backbone.tokenizer.eos_token_id if configured is None else configured)
    ends = set(end) if isinstance(end, list) else {end}
    with ExitStack() as stack:
        if prefix is not None:
            stack.enter_context(generating(backbone, prefix))
        stack.enter_context(
            torch.autocast(backbone.device.type, dtype=backbone.compute, enabled=backbone.compute != torch.float32)
        )
        # Past PEFT, which changes the model for the length of its own `generate`.
        made = cast(Any, backbone.base).generate(**inputs, attention_mask=mask_BS, **options)
    # Given ids, transformers gives them back in front of the new ones; given embeddings, it cannot.
    new_BN = (made if isinstance(made, Tensor) else made.sequences)[:, longest if prefix is None else 0 :]
    rows: list[list[int]] = []
    for row in new_BN.tolist():
        stop = next((i for i, token in enumerate(row) if token in ends), len(row))
        # Where something else than the end mark stopped a row, padding follows at once.
        while stop == len(row) > 0 and "stop_strings" in options and row[-1] == options["pad_token_id"]:
            row, stop = row[:-1], stop - 1
        rows.append(row[:stop])
    if isinstance(made, Tensor):
        return Continuation(rows)
    made.sequences = new_BN
    return Continuation(rows, made)


def _check_window(backbone: Backbone, prompts: list[list[int]], prefix: Prefix | None, options: dict[str, Any]) -> None:
    """Refuse a continuation that cannot end inside the model's window, before it begins.

    Raises:
        InputError: The message has the numbers.
    """
    new = new_tokens(backbone, options, max(map(len, prompts)) if prefix is None else 0)
    starts = [0] * len(prompts) if prefix is None else prefix.start_B.tolist()
    start, length = max(zip(starts, map(len, prompts), strict=True), key=sum)
    # The last new token is not read any more.
    needed = start + length + new - 1
    backbone.check_fits(
        needed,
        f"a memory of {start} positions, a prompt of {length} tokens and {new} new ones",
        "shorten the prompt, ask for fewer new tokens, or read fewer virtual tokens (a higher ratio, or a state of "
        "fewer slots)",
    )


def new_tokens(backbone: Backbone, options: dict[str, Any], n_prompt: int = 0) -> int:
    """Tokens that are made at most, as far as is known beforehand; at least 1.

    Args:
        backbone: The language model.
        options: Those of ``generate``.
        n_prompt: Tokens of the longest prompt where transformers counts it in ``max_length``; else 0.
    """
    config = options.get("generation_config") or backbone.base.generation_config
    new = options.get("max_new_tokens") or getattr(config, "max_new_tokens", None)
    if new is None and n_prompt:
        new = (options.get("max_length") or getattr(config, "max_length", None) or 0) - n_prompt
    return max(1, new or 1)
