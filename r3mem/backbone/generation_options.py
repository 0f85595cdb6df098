"""Options of transformers' ``generate``: what is passed on, and what cannot be with a memory in front, and why."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from transformers import GenerationConfig

from r3mem.backbone.language_model import LanguageModel
from r3mem.errors import InputError
from r3mem.errors.suggestions import nearest
from r3mem.errors.whole_numbers import whole_number

MADE_HERE = (
    "inputs", "input_ids", "inputs_embeds", "attention_mask", "position_ids", "cache_position", "past_key_values",
)  # fmt: skip
OTHER_PASSES = (
    "assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "guidance_scale", "negative_prompt_ids",
    "custom_generate", "prefill_chunk_size",
)  # fmt: skip
#: Read the prompt from where embeddings stand with a memory, or change it.
OTHER_PROMPTS = ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "token_healing")
#: Taken out of the options by transformers without being named by it.
UNNAMED = {"tokenizer", "assistant_tokenizer", "trust_remote_code"}
#: Settings where nothing says otherwise; older versions of transformers write them into every configuration.
DEFAULTS = cast(Any, GenerationConfig)()
#: New tokens where nothing says how many, in every version of transformers.
DEFAULT_NEW = 20


def given_setting(options: dict[str, Any], name: str) -> Any:
    """What the user gave for a setting, as an option or in ``generation_config``; None if neither has it.

    Args:
        options: Those of ``generate``.
        name: Of the setting.

    Raises:
        InputError: ``generation_config`` is none.
    """
    config = options.get("generation_config")
    if config is not None and not isinstance(config, GenerationConfig):
        raise InputError(
            f"generation_config is a GenerationConfig, not {type(config).__name__}: make one of transformers, or give "
            "its settings as options"
        )
    return _told(config, name) if options.get(name) is None else options[name]


def setting(backbone: LanguageModel, options: dict[str, Any], name: str) -> Any:
    """The setting in force: what the user gave, else what the model's own configuration has; None if neither.

    Args:
        backbone: The language model.
        options: Those of ``generate``.
        name: Of the setting.
    """
    given = given_setting(options, name)
    return _told(backbone.base.generation_config, name) if given is None else given


def _told(config: GenerationConfig | None, name: str) -> Any:
    """A setting of a configuration; None for a default."""
    value, default = getattr(config, name, None), getattr(DEFAULTS, name, None)
    return None if default is not None and value == default else value


def with_lengths(backbone: LanguageModel, options: dict[str, Any], longest: int) -> dict[str, Any]:
    """The options with ``max_new_tokens``, and ``min_new_tokens`` for ``min_length``: a memory counts for none.

    ``max_length`` and ``min_length`` count the longest prompt and the new tokens.

    Args:
        backbone: The language model.
        options: Those of ``generate``.
        longest: Tokens of the longest prompt.

    Raises:
        InputError: No new token could be made.
    """
    options = dict(options)
    new = setting(backbone, options, "max_new_tokens")
    length = setting(backbone, options, "max_length")
    if new is not None:
        new = whole_number(new, "max_new_tokens", 1)
    elif length is not None:
        new = whole_number(length, "max_length") - longest
        if new < 1:
            raise InputError(
                f"max_length {length} counts the prompt too, whose {longest} tokens leave none to make: raise it, or "
                "give max_new_tokens"
            )
    else:
        new = max(1, min(DEFAULT_NEW, backbone.max_positions - longest))
    fewest, length = setting(backbone, options, "min_new_tokens"), setting(backbone, options, "min_length")
    if fewest is None and length is not None:
        fewest = max(0, whole_number(length, "min_length", 0) - longest)
    options.pop("max_length", None)
    options.pop("min_length", None)
    return {
        **options,
        "max_new_tokens": new,
        **({} if fewest is None else {"min_new_tokens": whole_number(fewest, "min_new_tokens", 0)}),
    }


def end_marks(backbone: LanguageModel, options: dict[str, Any]) -> list[int]:
    """Tokens that end an answer; none where ``eos_token_id=None`` says so.

    Args:
        backbone: The language model.
        options: Those of ``generate``.

    Raises:
        InputError: A mark is no token id.
    """
    if "eos_token_id" in options and options["eos_token_id"] is None:
        return []
    found = setting(backbone, options, "eos_token_id")
    found = backbone.tokenizer.eos_token_id if found is None else found
    found = found.tolist() if hasattr(found, "tolist") else found
    marks = found if isinstance(found, list | tuple | set) else [] if found is None else [found]
    return sorted(whole_number(mark, "eos_token_id") for mark in marks)


def pad_token(backbone: LanguageModel, options: dict[str, Any]) -> int:
    """The token that stands behind rows that ended.

    Args:
        backbone: The language model.
        options: Those of ``generate``.

    Raises:
        InputError: It is no token id.
    """
    found = given_setting(options, "pad_token_id")
    found = backbone.generation_pad if found is None else found
    found = found.item() if isinstance(found, torch.Tensor) and found.numel() == 1 else found
    pad = 0 if found is None else whole_number(found, "pad_token_id")
    if not 0 <= pad < backbone.vocabulary and given_setting(options, "pad_token_id") is not None:
        raise InputError(f"pad_token_id {pad} is outside the vocabulary of {backbone.vocabulary} tokens: leave it out")
    return pad


def stop_strings(options: dict[str, Any]) -> list[str]:
    """Strings that end an answer.

    Args:
        options: Those of ``generate``.

    Raises:
        InputError: They are none.
    """
    found = given_setting(options, "stop_strings")
    strings = [found] if isinstance(found, str) else [] if found is None else found
    if not isinstance(strings, list | tuple | set) or not all(isinstance(each, str) and each for each in strings):
        raise InputError(f"stop_strings is a string or a list of them, none of them empty, not {found!r:.60}")
    return list(strings)


def checked_options(
    backbone: LanguageModel, options: dict[str, Any], with_memory: bool, longest: int
) -> dict[str, Any]:
    """The options as they are passed on, with what they need from here.

    Args:
        backbone: The language model.
        options: What the user gave.
        with_memory: Whether a memory stands in front of the prompts.
        longest: Tokens of the longest prompt.

    Raises:
        InputError: An option that cannot be passed on; the message has its name and the reason.
    """
    given = sorted(set(MADE_HERE) & set(options))
    if given:
        raise InputError(f"generate takes no {', '.join(given)}: they are made from the prompts and the memory")
    if given_setting(options, "is_assistant"):
        raise InputError("generate takes no is_assistant: it helps no other model here. Leave it out")
    if options.get("custom_generate") is None:
        _check_names(backbone, options)
    if with_memory:
        _check_with_memory(options)
    criteria = options.get("stopping_criteria")
    if criteria is not None and not isinstance(criteria, list | tuple):
        raise InputError(f"stopping_criteria is a list of them, not {type(criteria).__name__}")
    passed = {
        **with_lengths(backbone, options, longest),
        "pad_token_id": pad_token(backbone, options),
        "eos_token_id": end_marks(backbone, options) or None,
    }
    beams = setting(backbone, options, "num_beams")
    beams = whole_number(1 if beams is None else beams, "num_beams", 1)
    rows = setting(backbone, options, "num_return_sequences")
    rows = whole_number(1 if rows is None else rows, "num_return_sequences", 1)
    if rows > beams and not (beams == 1 and setting(backbone, options, "do_sample")):
        raise InputError(
            f"num_return_sequences {rows} needs do_sample=True or num_beams={rows}: the most likely continuation is one"
        )
    return passed


def _check_names(backbone: LanguageModel, options: dict[str, Any]) -> None:
    base: Any = backbone.base
    called = [inspect.signature(each).parameters for each in (base.generate, base.prepare_inputs_for_generation)]
    configs = [vars(config) for config in (DEFAULTS, base.generation_config)]
    known = set().union(*called, *configs, backbone.arguments, UNNAMED) - {"self", "kwargs"}
    for name in options:
        if name not in known or name.startswith("_"):
            near = nearest(name, known - set(MADE_HERE))
            raise InputError(
                f"generate has no option {name!r}" + (f": did you mean {near!r}?" if near else ": leave it out")
            )


def _check_with_memory(options: dict[str, Any]) -> None:
    for name in OTHER_PASSES:
        if given_setting(options, name) is not None:
            raise InputError(
                f"generate takes no {name} with a memory: it runs passes of its own, which would not read the "
                "memory. Leave it out, or generate without a memory"
            )
    for name in OTHER_PROMPTS:
        if given_setting(options, name):
            raise InputError(
                f"generate takes no {name} with a memory: it looks for the prompt's tokens where the memory stands. "
                "Leave it out, or generate without a memory"
            )
    cache = given_setting(options, "cache_implementation")
    if cache not in (None, "dynamic"):
        raise InputError(
            f"generate takes no cache_implementation {cache!r} with a memory: its keys and values are put into a cache "
            "that grows. Leave it out"
        )
    if given_setting(options, "use_cache") is False:
        raise InputError("generate takes no use_cache=False with a memory: it is read from the cache. Leave it out")
