"""What a store tells of itself: how much it holds, what is damaged, what a call did. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stats:
    """What is in a store, or in a user's part of it.

    Attributes:
        entries: Entries.
        versions: Versions of all entries, the current ones among them.
        contents: Texts that are kept once each; a user's equal texts are one.
        pending: Texts that wait for compression.
        failed: Texts that could not be compressed.
        reasons: Why, and how many of each.
        users: Users; 1 where only one was asked for.
        tokens: Text tokens of compressed texts.
        positions: Their virtual tokens.
        text_bytes: Bytes of all texts in UTF-8, kept or not.
        raw_bytes: Bytes of the raw text that is kept: pending, failed, or by ``keep_text``.
        blob_bytes: Bytes of virtual tokens.
        index_bytes: Bytes of the words that are indexed.
        disk_bytes: Bytes of the database's files; 0 where a user was asked for.
        models: By which models the memories were made, and how many: names of :attr:`MemoryStore.model_name`.
        unerased: Whether bytes of what was deleted are still to be erased.
        unerased_why: Why, and what to do; None if none are.
        trouble: Why nothing is compressed in the background at present; None if all is well.
    """

    entries: int
    versions: int
    contents: int
    pending: int
    failed: int
    reasons: Mapping[str, int]
    users: int
    tokens: int
    positions: int
    text_bytes: int
    raw_bytes: int
    blob_bytes: int
    index_bytes: int
    disk_bytes: int
    models: Mapping[str, int] = field(default_factory=dict)
    unerased: bool = False
    unerased_why: str | None = None
    trouble: str | None = None

    def plain(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class Problem:
    """Something that a check found.

    Attributes:
        entry: The entry's id; None where no entry is concerned.
        version: Number of the version; None likewise.
        user: Whose it is; None likewise.
        what: What is wrong, and what to do.
    """

    entry: str | None
    version: int | None
    user: str | None
    what: str

    def plain(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True)
class Consolidated:
    """What a consolidation did.

    Attributes:
        merged: Entries whose texts now lie in coarser memories.
        made: Coarser memories that were made.
        entries: Their ids.
    """

    merged: int
    made: int
    entries: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        return asdict(self)
