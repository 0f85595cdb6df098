"""The training objective: a sum of weighted terms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from r3mem.errors import ConfigError
from r3mem.objectives.base import Term
from r3mem.objectives.context import Need, together


@dataclass
class Objective:
    """Which terms are trained; each has its weight.

    Attributes:
        terms: The terms, each once, in the order in which they are computed.
    """

    terms: list[Term]

    def __post_init__(self) -> None:
        wrong = [type(term).__name__ for term in self.terms if not isinstance(term, Term)]
        if wrong:
            raise ConfigError(f"terms of an objective are of r3mem.objectives.Term, not {', '.join(wrong)}")
        names = [term.name for term in self.terms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(
                f"the objective has {', '.join(twice)} more than once: leave one, or name a subclass of it"
            )
        if not self.counted:
            raise ConfigError("no term of the objective has a weight: give at least one a weight above 0")

    @property
    def counted(self) -> list[Term]:
        """The terms that have a weight."""
        return [term for term in self.terms if term.weight > 0]

    def weights(self, step: int) -> dict[str, float]:
        """Weights of the terms that count, at an optimiser step."""
        return {term.name: term.at(step) for term in self.counted}


def needs_of(terms: Iterable[Term]) -> Need:
    """All that several terms need."""
    return together(term.needs for term in terms)
