"""What every way of searching has in common: index passages once, then score them all for each query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from r3mem.errors import InputError
from r3mem.plain_data.text_ids import check_characters


class Searcher(ABC):
    """Ranks passages for a query.

    A subclass implements :meth:`_index` and :meth:`_scores`, and stores each constructor argument in an attribute of
    the same name.

    Attributes:
        n_passages: Passages in the index; 0 before :meth:`index`.
        times_indexed: Calls of :meth:`index` so far; tells who shares a searcher that another has indexed since.
        no_match: Score of a passage in which nothing of the query was found; None where every passage is compared.
    """

    n_passages: int = 0
    times_indexed: int = 0
    no_match: ClassVar[float | None] = None

    def index(self, passages: Sequence[str]) -> None:
        """Take in the passages to be searched; they replace those of an earlier call.

        After a call that failed, for whatever reason, nothing is indexed.

        Args:
            passages: The texts.

        Raises:
            InputError: There is none, or one is empty or blank.
        """
        self.n_passages = 0
        self.times_indexed += 1
        if isinstance(passages, str):
            raise InputError("passages is one string; give a list of passages")
        if not isinstance(passages, list | tuple):
            raise InputError(f"passages are a list of strings, not {type(passages).__name__}: give list(...) of it")
        if not passages:
            raise InputError("no passages to index: give at least one")
        for i, passage in enumerate(passages):
            check_text(passage, f"passage {i}")
        blank = next((i for i, passage in enumerate(passages) if not passage.strip()), None)
        if blank is not None:
            raise InputError(f"passage {blank} is empty: leave it out, or give it a text")
        self._index(list(passages))
        self.n_passages = len(passages)

    def scores(self, query: str) -> list[float]:
        """One score a passage, higher is better. Only the order is comparable between methods.

        Args:
            query: What is searched for.

        Raises:
            InputError: Nothing is indexed, or the query is empty or blank.
        """
        if not self.n_passages:
            raise InputError("nothing is indexed: call index(passages) before a query")
        check_text(query, "the query")
        if not query.strip():
            raise InputError("the query is empty: give at least one word")
        return self._scores(query)

    def rank(self, query: str) -> list[int]:
        """Numbers of all passages, best first; passages of equal score keep their order in the index.

        Args:
            query: What is searched for.

        Raises:
            InputError: As :meth:`scores`.
        """
        scores = self.scores(query)
        return sorted(range(len(scores)), key=lambda i: -scores[i])

    @property
    def positions_per_passage(self) -> float | None:
        """Mean positions of the model's context that reading one indexed passage takes; None where none is read."""
        return None

    @abstractmethod
    def _index(self, passages: list[str]) -> None:
        """See :meth:`index`; ``passages`` holds at least one, none blank."""

    @abstractmethod
    def _scores(self, query: str) -> list[float]:
        """See :meth:`scores`; something is indexed, the query is not blank."""


def check_text(given: object, called: str) -> None:
    """Refuse what is not a string of whole characters.

    Args:
        given: What was given as a text.
        called: Names it in the error.

    Raises:
        InputError: It is none.
    """
    if not isinstance(given, str):
        raise InputError(f"{called} is a str, not {type(given).__name__}: decode bytes with .decode('utf-8')")
    check_characters(given)
