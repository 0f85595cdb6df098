"""Prompts continued with memories read in front of them; see :meth:`r3mem.model.R3Mem.generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r3mem.backbone.evaluation_mode import evaluating
from r3mem.backbone.generation import Continuation, continued
from r3mem.backbone.generation_options import with_lengths
from r3mem.errors import ConfigError, InputError
from r3mem.errors.given_texts import given_texts
from r3mem.errors.whole_numbers import whole_number
from r3mem.memory import Memory, Segments
from r3mem.memory.states import joined
from r3mem.model.chat_prompts import chat_ids, is_chat
from r3mem.model.reach import REACHES, level_read, state_read
from r3mem.model.segment_model import SegmentModel
from r3mem.plain_data.text_ids import decoded, text_ids


def continue_prompts(
    model: SegmentModel, prompt: Any, memory: Any, reach: str, slots: int | None, options: dict[str, Any]
) -> Any:
    """See :meth:`r3mem.model.R3Mem.generate`."""
    with model.at_ratio(None):
        return _continued(model, prompt, memory, reach, slots, options)


def _continued(
    model: SegmentModel, prompt: Any, memory: Any, reach: str, slots: int | None, options: dict[str, Any]
) -> Any:
    if reach not in REACHES:
        raise ConfigError(f"reach is 'all', 'state' or 'records', not {reach!r}")
    rows, single = _prompt_ids(model, prompt)
    if memory is None:
        if slots is not None:
            raise InputError("slots are those of a memory, and there is none: give memory, or leave slots out")
        with evaluating(model), model.compressor.reading(model.backbone):
            made = continued(model.backbone, rows, None, options)
        return _given_back(model, made, len(rows), single)
    if slots is not None and whole_number(slots, "slots") < 1:
        raise InputError(f"slots {slots} is not possible: read at least 1, or leave slots out to read all")
    several = isinstance(memory, list | tuple)
    memories = list(memory) if several else [memory] * len(rows)
    if len(memories) != len(rows):
        raise InputError(f"{len(rows)} prompts but {len(memories)} memories; give one for all or one for each")
    longest = max(map(len, rows))
    options = with_lengths(model.backbone, options, longest)
    room = model.backbone.max_positions - longest - int(options["max_new_tokens"]) + 1
    levels = {key: level_read(model, each, room) for key, each in {id(m): m for m in memories}.items()}
    read = [levels[id(each)] for each in memories]
    ratios = sorted({each.ratio for each in read})
    if len(ratios) > 1 and options.get("return_dict_in_generate"):
        raise InputError(f"memories of the ratios {ratios} are read apart: ask for return_dict_in_generate one by one")
    found: dict[int, Any] = {}
    for ratio in ratios:
        mine = [b for b, each in enumerate(read) if each.ratio == ratio]
        made = _behind(model, [rows[b] for b in mine], [read[b] for b in mine], reach, slots, room, options)
        if made.output is not None:
            return _given_back(model, made, len(rows), single)
        found |= dict(zip(mine, _given_back(model, made, len(mine), False), strict=True))
    return found[0] if single else [found[b] for b in range(len(rows))]


def _prompt_ids(model: SegmentModel, prompt: Any) -> tuple[list[list[int]], bool]:
    tokenizer = model.backbone.tokenizer
    if is_chat(prompt):
        return [chat_ids(prompt, tokenizer)], True
    if isinstance(prompt, list | tuple) and prompt and all(is_chat(each) for each in prompt):
        return [chat_ids(each, tokenizer) for each in prompt], False
    texts, single = given_texts(prompt, "prompt")
    return [text_ids(text, tokenizer) if isinstance(text, str) else list(text) for text in texts], single


def _behind(
    model: SegmentModel, rows: list[list[int]], memories: Sequence[Memory], reach: str, slots: int | None, room: int,
    options: dict[str, Any],
) -> Continuation:  # fmt: skip
    """Prompts behind memories of one ratio. One memory for many prompts is unpacked once."""
    if slots is not None and reach == "all":
        reach = "records"  # They are chosen from, and need not fit the window together.
    with model.at_ratio_of(memories[0]), evaluating(model):
        with model.compressor.reading(model.backbone):
            unpacked = {key: state_read(model, m, reach, room) for key, m in {id(m): m for m in memories}.items()}
            state = joined([unpacked[id(m)] for m in memories])
            assert state is not None
            if slots is not None:
                query = Segments.pad(rows, model.backbone.device)
                state = model.compressor.choose(model.backbone, state, query, slots)
            return continued(model.backbone, rows, model.compressor.read(state), options)


def _given_back(model: SegmentModel, made: Continuation, n_prompts: int, single: bool) -> Any:
    """Texts, for each prompt as many as it was continued; or transformers' output with them."""
    tokenizer = model.backbone.tokenizer
    texts: list[Any] = [decoded(row, tokenizer, goes_on=True, skip_control=True) for row in made.rows]
    each = len(texts) // n_prompts
    if each > 1:
        texts = [texts[at : at + each] for at in range(0, len(texts), each)]
    if made.output is None:
        return texts[0] if single else texts
    made.output["texts"] = texts[0] if single else texts
    return made.output
