"""What a data module takes from the run that it serves: its trainer's place among the processes, its model's side."""

from __future__ import annotations

from lightning.pytorch import Trainer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from r3mem.errors import ConfigError, InputError
from r3mem.hierarchy import Hierarchy
from r3mem.model.run_contract import ModelSide, model_side_of
from r3mem.plain_data.query_template import QueryTemplate


def side_of_model(trainer: Trainer | None) -> ModelSide | None:
    """What the model that the data serve hands over; None without a run, or where it hands nothing."""
    return None if trainer is None else model_side_of(trainer.lightning_module)


def tokenizer_of(given: PreTrainedTokenizerBase | str | None, model: ModelSide | None) -> PreTrainedTokenizerBase:
    """The tokenizer that was given, or that of the model.

    Args:
        given: A tokenizer, or the hub id or folder of one.
        model: What the model hands over.

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
    if given is None and model is None:
        raise ConfigError(
            "no tokenizer: pass tokenizer= (a hub id or folder), or run with a model that hands one over "
            "(r3mem.model.run_contract.HasModelSide), as MemoryModule does"
        )
    return given if given is not None else model.tokenizer


def hierarchy_of(given: Hierarchy | None, model: ModelSide | None) -> Hierarchy:
    """The hierarchy that was given, or that of the model.

    Args:
        given: A hierarchy.
        model: What the model hands over.

    Raises:
        ConfigError: If there is none.
    """
    found = given if given is not None or model is None else model.hierarchy
    if found is None:
        raise ConfigError("no hierarchy: pass hierarchy=, or run with a model that has one before the data is set up")
    return found


def template_of(given: QueryTemplate | None, model: ModelSide | None) -> QueryTemplate:
    """The template that was given, or that of the model.

    Args:
        given: A template.
        model: What the model hands over.

    Returns:
        The default template if there is none.

    Raises:
        ConfigError: If the one given is not the model's.
    """
    if given and model and given.template != model.template.template:
        raise ConfigError(
            f"query_template is {given.template!r} for the data but {model.template.template!r} for the model: leave "
            "it out of the data, which takes the model's"
        )
    return given or (model.template if model else QueryTemplate())


def place_of(trainer: Trainer | None) -> tuple[int, int]:
    """Rank and number of the processes that split the rows.

    Not the trainer's world size: with tensor parallelism several ranks read the same rows.
    """
    place = trainer.distributed_sampler_kwargs if trainer is not None else None
    return (place["rank"], place["num_replicas"]) if place else (0, 1)


def overfits(trainer: Trainer | None) -> bool:
    """Whether training repeats its first few batches, which must then be the same ones in every epoch."""
    return trainer is not None and trainer.overfit_batches > 0  # type: ignore[attr-defined]


def padding_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that stands beyond a segment's length: the tokenizer's own, its end mark, or 0."""
    return next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
