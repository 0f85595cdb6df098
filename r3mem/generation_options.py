"""Options of transformers' ``generate``: what is passed on, and what cannot be with a memory in front, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r3mem.errors import InputError

if TYPE_CHECKING:
    from r3mem.backbone import Backbone

MADE_HERE = (
    "inputs", "input_ids", "inputs_embeds", "attention_mask", "position_ids", "cache_position", "past_key_values",
)  # fmt: skip
OTHER_PASSES = (
    "assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "guidance_scale", "negative_prompt_ids",
    "custom_generate", "prefill_chunk_size",
)  # fmt: skip


def checked_options(backbone: Backbone, options: dict[str, Any], with_memory: bool) -> dict[str, Any]:
    """The options as they are passed on, with what they need from here.

    Args:
        backbone: The language model.
        options: What the user gave.
        with_memory: Whether a memory stands in front of the prompts.

    Raises:
        InputError: An option that cannot be passed on; the message has its name and the reason.
    """
    given = sorted(set(MADE_HERE) & set(options))
    if given:
        raise InputError(f"generate takes no {', '.join(given)}: they are made from the prompts and the memory")
    config = options.get("generation_config")

    def value(name: str) -> Any:
        return options.get(name, getattr(config, name, None))

    if with_memory:
        for name in OTHER_PASSES:
            if value(name) is not None:
                raise InputError(
                    f"generate takes no {name} with a memory: it runs passes of its own, which would not read the "
                    "memory. Leave it out, or generate without a memory"
                )
        if value("cache_implementation") not in (None, "dynamic"):
            raise InputError(
                f"generate takes no cache_implementation {value('cache_implementation')!r} with a memory: its keys and "
                "values are put into a cache that grows. Leave it out"
            )
        if value("use_cache") is False:
            raise InputError("generate takes no use_cache=False with a memory: it is read from the cache. Leave it out")
    pad = backbone.generation_pad if backbone.generation_pad is not None else 0
    passed = {"pad_token_id": pad, **options}
    if value("stop_strings") is not None:
        passed.setdefault("tokenizer", backbone.tokenizer)
        passed["stop_strings"] = value("stop_strings")
    return passed
