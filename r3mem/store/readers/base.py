"""The seam: what a file of some kind holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Document:
    """One text, or one conversation.

    Attributes:
        pieces: The text in order, in pieces of any size; None for a conversation.
        turns: Messages ``{"role": ..., "content": ...}``; empty for a text.
        metadata: What the file says about it.
        left_aside: What is not kept, in words; empty if all is.
    """

    pieces: Iterable[str] | None
    turns: tuple[Mapping[str, str], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    left_aside: tuple[str, ...] = ()


class Reader(ABC):
    """Reads files of one kind."""

    @abstractmethod
    def documents(self, file: BinaryIO, name: str) -> Iterator[Document]:
        """What a file holds. Pieces of a document are taken before the next document is asked for.

        Args:
            file: Open for reading, at its beginning.
            name: What it is called in errors.

        Raises:
            InputError: It is of another kind, damaged or empty; the message says what to do.
        """
