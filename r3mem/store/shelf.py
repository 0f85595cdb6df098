"""What a policy sees of a store: the entries of one scope, and what may be done with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from r3mem.store.entries import Entry
from r3mem.store.scope import Scope

if TYPE_CHECKING:
    from r3mem.memory import Memory
    from r3mem.model import R3Mem


class Shelf(Protocol):
    """Entries of one scope.

    Attributes:
        scope: The scope.
    """

    scope: Scope

    def now(self) -> datetime:
        """The time, in UTC."""

    def entries(self) -> Iterator[Entry]:
        """All entries, in the order in which they were added."""

    def newest(self, k: int) -> list[str]:
        """Ids of what can be found, newest first."""

    def by_words(self, query: str, k: int) -> list[tuple[str, float]]:
        """Ids of entries with words of the query and their scores, best first."""

    def text(self, id: str) -> str:
        """The exact text of an entry."""

    def memory(self, id: str) -> Memory:
        """What a model reads of an entry."""

    def model(self) -> R3Mem:
        """The store's model, loaded now if it was not."""

    def delete(self, ids: Sequence[str]) -> int:
        """Erase entries; how many."""

    def merge(self, ids: Sequence[str], ratio: int) -> str:
        """Put the texts of entries into one coarser memory; its id. Coarser ones among them are taken apart."""
