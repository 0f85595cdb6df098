"""What requests hold, as the page of the interface shows it. What texts may be is checked by the store itself."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from r3mem.errors import InputError
from r3mem.store.entries import Entry

Name = Field(None, description="Only what this one added; on adding, who adds.")


class Body(BaseModel):
    """A request. A name that is none of its own is refused, not passed over."""

    model_config = ConfigDict(extra="forbid")


class Text(Body):
    """A text, or a conversation."""

    text: str | None = Field(None, description="The text; or `turns`.", examples=["The dog of Ann is called Rex."])
    turns: list[dict[str, Any]] | None = Field(
        None, description="Messages of a conversation, each with `role` and `content`; or `text`."
    )

    def given(self) -> str | list[dict[str, Any]]:
        """Which of the two was given.

        Raises:
            InputError: Both, or none.
        """
        if self.text is not None and self.turns is None:
            return self.text
        if self.turns is not None and self.text is None:
            return self.turns
        raise InputError("give one of text and turns")


class Addition(Text):
    """What is to be kept."""

    agent: str | None = Name
    session: str | None = Name
    source: str | None = Field(None, description="Where it is from: a path, an address.")
    time: str | None = Field(None, description="When it was said, ISO 8601 with a time zone; else now.")
    metadata: dict[str, Any] | None = Field(None, description="Anything; given back as it is.")


class Change(Text):
    """The new text of an entry."""

    time: str | None = Field(None, description="As of an addition.")


class Query(Body):
    """What is searched."""

    query: str = Field(description="Words, or a question. No character is a command.", examples=["Ann's dog"])
    k: int = Field(10, description="Hits at most.")
    text: bool = Field(True, description="Whether the texts of hits are recalled too: exact, and slower.")
    agent: str | None = Name
    session: str | None = Name


class Part(Body):
    """Which of a user's entries."""

    agent: str | None = Name
    session: str | None = Name


class Recalled(BaseModel):
    """The exact text of an entry, or of the part that was asked for."""

    id: str
    text: str


class FoundEntry(BaseModel):
    """A hit of a search."""

    rank: int = Field(description="1 is the best.")
    score: float = Field(description="Comparable within one search only.")
    entry: Entry
    text: str | None = Field(None, description="Where it was asked for; null where the memory is damaged.")
    problem: str | None = Field(None, description="Why there is no text.")


class Hits(BaseModel):
    """What a search found, best first."""

    hits: list[FoundEntry]


class Listed(BaseModel):
    """A page of entries."""

    entries: list[Entry]
    next: str | None = Field(description="What to give as `after` for the next page; null behind the last one.")
    total: int = Field(description="Entries of the whole list.")


class Added(BaseModel):
    """Entries of a file, in its order."""

    entries: list[Entry]


class Deleted(BaseModel):
    """How many entries were erased."""

    deleted: int
    unerased: str | None = Field(
        None, description="Only where their bytes are still in the files: why. The next deletion erases them."
    )


class Health(BaseModel):
    """That a server answers."""

    status: str
    version: str
