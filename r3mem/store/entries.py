"""What a store gives back about memories: entries, their versions, pages of them, hits of a search. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: Who spoke.
        start: First character of the content in the entry's text.
        end: One past its last character.
    """

    role: str
    start: int
    end: int


@dataclass(frozen=True)
class Entry:
    """One memory. Its text is not in it: :meth:`r3mem.store.MemoryStore.recall` gives it.

    Attributes:
        id: 32 hexadecimal digits that nobody can guess.
        user: Whose it is.
        agent: Which agent added it, or None.
        session: In which session, or None.
        kind: ``text``, ``turns`` (a conversation) or ``file`` (a piece of a file or of another long source).
        source: Where it is from, as it was given: a path, an address; or None.
        start: First character of the entry in its source.
        end: One past its last character.
        time: When what it tells was said or written, as it was given; else when it was added. UTC.
        created: When it was added. UTC.
        metadata: What was given with it.
        version: Number of the current version, from 1.
        state: ``pending`` (the raw text is kept, compression follows), ``ready`` (recalled from virtual tokens) or
            ``failed`` (it could not be compressed: the raw text is kept).
        level: ``raw`` (not compressed), ``record``, or ``consolidated`` (its text is in, or is, a coarser memory).
        tokens: Text tokens; 0 until it is compressed.
        positions: Virtual tokens: positions of a model's context that reading it takes; 0 until it is compressed.
        bytes: Bytes of the text in UTF-8.
        digest: SHA-256 of the text in UTF-8, hexadecimal.
        turns: Of a conversation its messages, else empty.
        superseded_by: The entry that replaced this one, or None.
        part_of: The consolidated entry that holds this one's text, or None.
    """

    id: str
    user: str
    agent: str | None
    session: str | None
    kind: str
    source: str | None
    start: int
    end: int
    time: datetime
    created: datetime
    metadata: Mapping[str, Any]
    version: int
    state: str
    level: str
    tokens: int
    positions: int
    bytes: int
    digest: str
    turns: tuple[Turn, ...] = ()
    superseded_by: str | None = None
    part_of: str | None = None

    def plain(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return {**asdict(self), "time": self.time.isoformat(), "created": self.created.isoformat()}


@dataclass(frozen=True)
class Version:
    """One version of an entry.

    Attributes:
        entry: The entry's id.
        number: From 1.
        time: When it came to be. UTC.
        why: ``added``, ``updated``, ``imported``, ``consolidated``, or ``superseded by ID``.
        state: As of :class:`Entry`.
        bytes: As of :class:`Entry`.
        digest: As of :class:`Entry`.
    """

    entry: str
    number: int
    time: datetime
    why: str
    state: str
    bytes: int
    digest: str

    def plain(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return {**asdict(self), "time": self.time.isoformat()}


@dataclass(frozen=True)
class Page:
    """Some entries of a longer list.

    Attributes:
        entries: In the order in which they were added.
        next: What to give as ``after`` for the next page; None behind the last one.
        total: Entries of the whole list.
    """

    entries: list[Entry]
    next: str | None
    total: int

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True)
class Hit:
    """An entry that a search found.

    Attributes:
        entry: The entry.
        score: Higher is better; comparable within one search only.
        rank: 1 is the best.
        recalled: Gives the exact text.
    """

    entry: Entry
    score: float
    rank: int
    recalled: Callable[[], str] = field(repr=False, compare=False)

    @property
    def text(self) -> str:
        """The exact text of the entry as it was found, recalled each time that it is asked for.

        Raises:
            RecallError: It cannot be given back exactly.
        """
        return self.recalled()

    @property
    def owner(self) -> str:
        """The user whose entry it is."""
        return self.entry.user

    @property
    def time(self) -> datetime:
        """As of the entry."""
        return self.entry.time

    @property
    def source(self) -> str | None:
        """As of the entry."""
        return self.entry.source

    @property
    def start(self) -> int:
        """First character of the text in its source."""
        return self.entry.start

    @property
    def end(self) -> int:
        """One past its last character."""
        return self.entry.end

    def plain(self, text: bool = True) -> dict[str, Any]:
        """The same as JSON can hold it.

        Args:
            text: Whether the text is recalled too.
        """
        told = {"rank": self.rank, "score": self.score, "entry": self.entry.plain()}
        return {**told, "text": self.text} if text else told
