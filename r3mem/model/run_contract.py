"""The contract between a model and the data that it is run with: what each side hands the other, once a run.

::

    model side   tokenizer, template, hierarchy                             --> data module, when it is set up
    data side    segment length, calibration text, documents of prediction  --> model, when it is set up after that

A Lightning module that has a model side is a :class:`HasModelSide`, a data module that has a data side a
:class:`HasDataSide`. Neither looks for anything else of the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.hierarchy import Hierarchy
from r3mem.plain_data.query_template import QueryTemplate


class PredictedDocuments(Protocol):
    """The documents that prediction reads; ``document_B`` of a batch counts them."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document."""

    @property
    def digests(self) -> NDArray[np.uint64]:
        """Hash of each document's text."""

    def __len__(self) -> int: ...

    def origin(self, document: int) -> str:
        """Where a document stood, for example ``books.jsonl:3``."""


@dataclass(frozen=True)
class ModelSide:
    """What a model hands the data.

    Attributes:
        tokenizer: What texts are cut into tokens with.
        template: What stands between a memory and a query.
        hierarchy: What cuts documents into segments; None where the model has none.

    Raises:
        ConfigError: Something is of another type.
    """

    tokenizer: PreTrainedTokenizerBase
    template: QueryTemplate = field(default_factory=QueryTemplate)
    hierarchy: Hierarchy | None = None

    def __post_init__(self) -> None:
        kinds = {"tokenizer": PreTrainedTokenizerBase, "template": QueryTemplate, "hierarchy": Hierarchy}
        for name, kind in kinds.items():
            found = vars(self)[name]
            if not isinstance(found, kind) and not (name == "hierarchy" and found is None):
                raise ConfigError(f"{name} of a model side is {type(found).__name__}: give a {kind.__name__}")


@dataclass(frozen=True)
class DataSide:
    """What data hand the model. Without anything, the defaults of the model hold.

    Attributes:
        segment_tokens: Most tokens of a segment, which a model without a hierarchy of its own takes over; None where
            the data do not say.
        calibration_ids: Token ids of sample text, which a model sets its start by; None for the reference prose that
            every Python carries.
        predicted: The documents of prediction, once they are set up; None where they are not known. Without them a
            run cannot tell which memories an earlier one has finished.
        predicts_trees: Whether prediction is given whole documents, of which it makes memories of trees.

    Raises:
        ConfigError: Something is of another type, or out of range.
    """

    segment_tokens: int | None = None
    calibration_ids: Sequence[int] | None = None
    predicted: PredictedDocuments | None = None
    predicts_trees: bool = False

    def __post_init__(self) -> None:
        if self.segment_tokens is not None:
            whole_setting(self.segment_tokens, "segment_tokens", 1)
        if self.calibration_ids is not None and not len(self.calibration_ids):
            raise ConfigError("calibration_ids is empty: give token ids of sample text, or None")


class HasModelSide(ABC):
    """A Lightning module that data modules take tokenizer, template and hierarchy from."""

    @abstractmethod
    def model_side(self) -> ModelSide:
        """What it hands the data; asked for when the data are set up, before the module is."""


class HasDataSide(ABC):
    """A data module that says how long its segments are, what to calibrate by, and what prediction reads."""

    @abstractmethod
    def data_side(self) -> DataSide:
        """What it hands the model; asked for when the model is set up, after the data are.

        ``r3mem export`` asks too, of data that are not set up.
        """


def model_side_of(module: object) -> ModelSide | None:
    """What a Lightning module hands the data; None where it has no model side, or there is no module.

    Raises:
        ConfigError: It hands something else.
    """
    if not isinstance(module, HasModelSide):
        return None
    side = module.model_side()
    if not isinstance(side, ModelSide):
        raise ConfigError(f"{type(module).__name__}.model_side gives {type(side).__name__}: let it give a ModelSide")
    return side


def data_side_of(data: object) -> DataSide | None:
    """What a data module hands the model; None where it has no data side, or there is no data module.

    Raises:
        ConfigError: It hands something else.
    """
    if not isinstance(data, HasDataSide):
        return None
    side = data.data_side()
    if not isinstance(side, DataSide):
        raise ConfigError(f"{type(data).__name__}.data_side gives {type(side).__name__}: let it give a DataSide")
    return side
