"""What a data module takes from the run that it serves: tokenizer, hierarchy, template, place among the processes."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from r3mem.errors import ConfigError, InputError
from r3mem.hierarchy import Hierarchy
from r3mem.plain_data.query_template import QueryTemplate


def tokenizer_of(given: PreTrainedTokenizerBase | str | None, trainer: Trainer | None) -> PreTrainedTokenizerBase:
    """The tokenizer that was given, or that of the model being trained (``lightning_module.backbone.tokenizer``).

    Args:
        given: A tokenizer, or the hub id or folder of one.
        trainer: The run's trainer.

    Raises:
        InputError: If it cannot be loaded.
        ConfigError: If there is none.
    """
    if isinstance(given, str):
        try:
            return AutoTokenizer.from_pretrained(given)
        except (OSError, ValueError) as error:
            raise InputError(
                f"tokenizer {given} could not be loaded ({error}): give a folder with a saved tokenizer or a hub id"
            ) from error
    found = given if given is not None else _of_model(trainer, "backbone", "tokenizer")
    if found is None:
        raise ConfigError(
            "no tokenizer: pass tokenizer= (a hub id or folder), or run with a model that "
            "has backbone.tokenizer before the data is set up"
        )
    return found


def hierarchy_of(given: Hierarchy | None, trainer: Trainer | None) -> Hierarchy:
    """The hierarchy that was given, or that of the model being trained (``lightning_module.model.hierarchy``).

    Args:
        given: A hierarchy.
        trainer: The run's trainer.

    Raises:
        ConfigError: If there is none.
    """
    found = given if given is not None else model_hierarchy(trainer)
    if found is None:
        raise ConfigError("no hierarchy: pass hierarchy=, or run with a model that has one before the data is set up")
    return found


def model_hierarchy(trainer: Trainer | None) -> Hierarchy | None:
    """The hierarchy of the model being trained; None if there is no model or it has none."""
    found: Hierarchy | None = _of_model(trainer, "model", "hierarchy")
    return found


def template_of(given: QueryTemplate | None, trainer: Trainer | None) -> QueryTemplate:
    """The template that was given, or that of the model being trained (``lightning_module.query_template``).

    Args:
        given: A template.
        trainer: The run's trainer.

    Returns:
        The default template if there is none.

    Raises:
        ConfigError: If the one given is not the model's.
    """
    model: QueryTemplate | None = _of_model(trainer, "query_template")
    if given and model and given.template != model.template:
        raise ConfigError(
            f"query_template is {given.template!r} for the data but {model.template!r} for the model: leave it out of "
            "the data, which takes the model's"
        )
    return given or model or QueryTemplate()


def place_of(trainer: Trainer | None) -> tuple[int, int]:
    """Rank and number of the processes that split the rows.

    Not the trainer's world size: with tensor parallelism several ranks read the same rows.
    """
    place = trainer.distributed_sampler_kwargs if trainer is not None else None
    return (place["rank"], place["num_replicas"]) if place else (0, 1)


def padding_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that stands beyond a segment's length: the tokenizer's own, its end mark, or 0."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)


def _of_model(trainer: Trainer | None, *names: str) -> Any:
    found: Any = trainer.lightning_module if trainer is not None else None
    for name in names:
        found = getattr(found, name, None)
    return found
