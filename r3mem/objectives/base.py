"""SEAM 4: one term of the training objective."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.objectives.context import Need, StepContext


class Term(nn.Module, ABC):
    """One term of the objective. A subclass says what it `needs` and computes `forward`; nothing else is touched.

    The training step computes what its terms need, once for all of them, and calls each term wherever all of that is
    there: for every segment, for the queries, or for the candidates of a batch. What it gives is added up over the
    batch and over all processes, so that the term is a mean over all that was counted.

    Args:
        weight: Factor of the term; at 0 it is not computed.
        warmup_steps: Optimiser steps over which the weight rises from 0 in a line.

    Attributes:
        name: What it is logged as, ``train/NAME``; the class's own name in small letters unless a class says another.
        needs: What it asks for.

    Raises:
        ConfigError: A negative weight or number of steps, or a class that does not say what it needs.
    """

    name: ClassVar[str]
    needs: ClassVar[Need]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, weight: float = 1.0, warmup_steps: int = 0) -> None:
        super().__init__()
        if not isinstance(getattr(self, "needs", None), Need):
            raise ConfigError(
                f"{type(self).__name__} does not say what it needs: give the class `needs`, such as "
                "`needs = Need.MEMORY` (r3mem.objectives.Need)"
            )
        if not weight >= 0:
            raise ConfigError(f"weight {weight} of {type(self).__name__} must be a number of at least 0")
        self.weight, self.warmup_steps = weight, whole_setting(warmup_steps, "warmup_steps", 0)

    def at(self, step: int) -> float:
        """Weight at an optimiser step."""
        return self.weight * min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else self.weight

    @abstractmethod
    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """The term at one place of a step.

        Args:
            context: What the term needs.

        Returns:
            ``(sum, count)``, both scalars: the sum over whatever is counted, and how many that is. Rows may end
            early: what is padded must be in neither.
        """
