"""A prefix in front of every step of transformers' ``generate``: its states, its keys and values, masks and positions.

Shape legend: B batch, P prefix, M of its positions with keys and values, N text tokens, S positions so far, D width, H
heads of keys and values, E width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StoppingCriteriaList, StopStringCriteria

from r3mem.backbone.generation_options import checked_options, setting, stop_strings
from r3mem.backbone.language_model import LanguageModel
from r3mem.backbone.layer_hooks import injected, unread
from r3mem.backbone.pass_masks import PassMasks
from r3mem.backbone.prefix import Prefix
from r3mem.backbone.row_ends import RowEnds, rows_until
from r3mem.backbone.thread_hooks import in_this_thread
from r3mem.errors import InputError, R3MemError
from r3mem.errors.given_texts import given_ids


def soft(prefix: Prefix, like_BND: Tensor) -> Tensor:
    """What stands at the positions of a prefix's states in the input: they, or nothing if they enter higher up."""
    states_BPD = prefix.states_BPD.to(like_BND.dtype)
    return states_BPD if prefix.layer == 0 else torch.zeros_like(states_BPD)


def with_room(prefix: Prefix, embeds_BND: Tensor) -> Tensor:
    """A prefix and a text as input embeddings; keys and values get room, which :func:`generating` takes out again."""
    room_BMD = embeds_BND.new_zeros(len(embeds_BND), prefix.n_cached, embeds_BND.shape[2])
    return torch.cat([room_BMD, soft(prefix, embeds_BND), embeds_BND], 1)


@contextmanager
def generating(backbone: LanguageModel, prefix: Prefix, prompt_BN: Tensor) -> Iterator[None]:
    """Inside, every step of ``generate`` gets the prefix's mask and positions, the first its keys and values too.

    Args:
        backbone: The language model.
        prefix: The prefix; the input begins :func:`with_room` for it.
        prompt_BN: 1 at the tokens of the prompts, padded on the left; new tokens follow.
    """
    prompted_BS = torch.cat([prefix.mask_BP, prompt_BN.bool()], 1)
    n_prefix, steps = prefix.n_positions, ExitStack()
    front = backbone.front(prefix)

    def lay_out(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = kwargs["inputs_embeds"] if kwargs.get("input_ids") is None else kwargs["input_ids"]
        n_queries = given.shape[1]
        cached = kwargs.get("past_key_values")
        n_before = 0 if cached is None else cached.get_seq_length()
        copies = len(given) // len(prefix.start_B)
        n_new = n_before + n_queries - prompted_BS.shape[1]
        valid_BS = torch.nn.functional.pad(prompted_BS.repeat_interleave(copies, 0), (0, n_new), value=True)
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
    backbone: LanguageModel, prompts: list[list[int]], prefix: Prefix | None, options: dict[str, Any]
) -> Continuation:
    """See :meth:`r3mem.backbone.Backbone.generate`."""
    prompts = _checked_prompts(prompts)
    if prefix is not None and not prefix.n_positions:
        prefix = None
    longest = max(len(prompt) for prompt in prompts)
    options = checked_options(backbone, options, prefix is not None, longest)
    marks, pad = options["eos_token_id"] or [], options["pad_token_id"]
    _check_window(backbone, prompts, prefix, options["max_new_tokens"])
    ids_BN, mask_BN = _padded(backbone, prompts, options)
    embeds_BND = backbone.embed(ids_BN)  # Refuses ids outside the vocabulary.
    inputs = {"input_ids": ids_BN, "attention_mask": mask_BN}
    if prefix is not None:
        # Processors of logits and the new tokens' criteria read the ids, the model reads the embeddings.
        inputs["inputs_embeds"] = with_room(prefix, embeds_BND)
        # Only the number of zeros in front is read of it: so many ids are padding. The memory's mask is laid out here.
        inputs["attention_mask"] = torch.nn.functional.pad(mask_BN, (0, prefix.n_positions), value=1)
    criteria: list[Any] = list(options.get("stopping_criteria") or ())
    strings = stop_strings(options) or setting(backbone, options, "stop_strings")
    if strings:
        criteria.append(StopStringCriteria(options.get("tokenizer") or backbone.tokenizer, strings))
        options["stop_strings"] = None
    stops = RowEnds(criteria, longest) if criteria else None
    options["stopping_criteria"] = None if stops is None else StoppingCriteriaList([stops])
    with ExitStack() as stack:
        if prefix is not None:
            stack.enter_context(generating(backbone, prefix, mask_BN))
        stack.enter_context(
            torch.autocast(backbone.device.type, dtype=backbone.compute, enabled=backbone.compute != torch.float32)
        )
        # Past PEFT, which changes the model for the length of its own `generate`.
        try:
            made = cast(Any, backbone.base).generate(**inputs, **options)
        except R3MemError:
            raise
        except ValueError as error:
            raise InputError(f"transformers cannot generate with these options ({error}): change them") from error
    # Ids were given, so transformers gives them back in front of the new ones.
    new_BN = (made if isinstance(made, Tensor) else made.sequences)[:, longest:]
    rows = rows_until(new_BN, marks, stops, pad, (setting(backbone, options, "num_beams") or 1) > 1)
    if isinstance(made, Tensor):
        return Continuation(rows)
    made.sequences = new_BN
    return Continuation(rows, made)


def _checked_prompts(prompts: Any) -> list[list[int]]:
    """Prompts as lists of token ids.

    Raises:
        InputError: They are not, there are none, or one is empty.
    """
    if not isinstance(prompts, list | tuple):
        raise InputError(
            f"prompts are a list of lists of token ids, not {type(prompts).__name__}: R3Mem.generate takes text"
        )
    if not prompts:
        raise InputError("no prompts given: pass at least one")
    rows = [given_ids(prompt, f"prompt {b} of {len(prompts)}") for b, prompt in enumerate(prompts)]
    empty = next((b for b, row in enumerate(rows) if not row), None)
    if empty is not None:
        called = "a prompt" if len(rows) == 1 else f"prompt {empty} of {len(rows)}"
        raise InputError(f"{called} is empty: give at least one token for the model to continue")
    return rows


def _padded(backbone: LanguageModel, prompts: list[list[int]], options: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Ids and mask ``BN`` of prompts, padded on the left."""
    longest = max(map(len, prompts))
    ids_BN = torch.zeros(len(prompts), longest, dtype=torch.long, device=backbone.device)
    mask_BN = torch.zeros_like(ids_BN)
    # What reads prompts as sequences finds none in the padding token; what forbids each of their tokens must not find
    # the padding token, which may be the end mark.
    alone = setting(backbone, options, "no_repeat_ngram_size") == 1
    pad = options["pad_token_id"] if 0 <= options["pad_token_id"] < backbone.vocabulary else 0
    for b, prompt in enumerate(prompts):
        ids_BN[b] = prompt[0] if alone else pad
        ids_BN[b, longest - len(prompt) :] = torch.tensor(prompt, device=backbone.device)
        mask_BN[b, longest - len(prompt) :] = 1
    return ids_BN, mask_BN


def _check_window(backbone: LanguageModel, prompts: list[list[int]], prefix: Prefix | None, new: int) -> None:
    """Refuse a continuation that cannot end inside the model's window, before it begins.

    Raises:
        InputError: The message has the numbers.
    """
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
