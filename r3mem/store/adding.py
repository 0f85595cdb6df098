"""How a text gets in: its content, its words, its place in the queue and its entry, all in one transaction."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from r3mem.errors import StoreError
from r3mem.store.given import Given
from r3mem.store.parts import Parts
from r3mem.store.rows import turns_told
from r3mem.store.schema import contents, entries, jobs, versions
from r3mem.store.scope import Scope
from r3mem.store.words import words_of

TRIES = 10


@dataclass(frozen=True)
class About:
    """What is kept beside a text.

    Attributes:
        source: As of `Entry`, and so the others.
        start: First character in the source.
        time: Microseconds since 1970; None for the time at which it is added.
        metadata: JSON.
        consolidated: Whether it is a coarser memory of other entries.
        imported_as: Its id where it was exported from.
    """

    source: str | None = None
    start: int = 0
    time: int | None = None
    metadata: str = "{}"
    consolidated: bool = False
    imported_as: str | None = None


def put_content(parts: Parts, connection: Connection, owner: str, given: Given, ratio: int | None = None) -> int:
    """The number of a text's content, which is made where the user has no equal text yet.

    Args:
        parts: Of the store.
        connection: For writing.
        owner: The user.
        given: The text.
        ratio: Text tokens per virtual token; None for the model's own.

    Raises:
        StoreError: Others delete the same text again and again.
    """
    same = select(contents.c.n).where(contents.c.owner == owner, contents.c.digest == given.digest).with_for_update()
    for _ in range(TRIES):
        found: int | None = connection.execute(same).scalar()
        if found is not None:
            return found
        words = sorted(words_of(given.text))
        added = connection.execute(
            parts.database.insert_or_nothing(contents).returning(contents.c.n),
            {
                "owner": owner, "digest": given.digest, "bytes": len(given.raw), "raw": given.raw,
                "words": " ".join(words), "n_words": len(words), "state": "pending", "ratio": ratio,
                "tokens": 0, "positions": 0,
            },
        ).scalar()  # fmt: skip
        if added is not None:
            parts.database.words.add(connection, added, owner, " ".join(words))
            queue(parts, connection, added)
            return int(added)
    raise StoreError("an equal text is being deleted meanwhile: add it again")


def queue(parts: Parts, connection: Connection, content: int) -> None:
    """Let a content be compressed.

    Args:
        parts: Of the store.
        connection: For writing.
        content: Its number; its raw text is there.
    """
    parts.database.insert_new(connection, jobs, content=content, queued=parts.clock.now(), until=0, attempts=0)


def put_entry(
    parts: Parts, connection: Connection, scope: Scope, given: Given, about: About, why: str = "added",
    ratio: int | None = None,
) -> str:  # fmt: skip
    """Make an entry; its id.

    Args:
        parts: Of the store.
        connection: For writing.
        scope: Whose it is.
        given: The text.
        about: What is kept beside it.
        why: Of its first version.
        ratio: As of :func:`put_content`.
    """
    content = put_content(parts, connection, scope.user, given, ratio)
    id, now, turns = uuid.uuid4().hex, parts.clock.now(), turns_told(given.turns)
    row = {
        "id": id,
        "owner": scope.user,
        "agent": scope.agent,
        "session": scope.session,
        "kind": given.kind,
        "turns": turns,
        "source": about.source,
        "start_at": about.start,
        "end_at": about.start + len(given.text),
        "time": now if about.time is None else about.time,
        "created": now,
        "metadata": about.metadata,
        "version": 1,
        "content": content,
        "consolidated": about.consolidated,
        "imported_as": about.imported_as,
    }
    connection.execute(insert(entries), row)
    first = {"entry": id, "number": 1, "content": content, "kind": given.kind, "turns": turns, "time": now, "why": why}
    connection.execute(insert(versions), first)
    return id


def put_version(
    parts: Parts, connection: Connection, id: str, number: int, content: int, given: Given, why: str,
    time: int | None = None,
) -> None:  # fmt: skip
    """Make a version of an entry, its current one.

    Args:
        parts: Of the store.
        connection: For writing.
        id: The entry.
        number: Of the version.
        content: Its text's.
        given: Its text.
        why: Why it came to be.
        time: When; None for now.
    """
    connection.execute(
        insert(versions).values(
            entry=id,
            number=number,
            content=content,
            kind=given.kind,
            turns=turns_told(given.turns),
            time=parts.clock.now() if time is None else time,
            why=why,
        )
    )
    connection.execute(
        update(entries)
        .where(entries.c.id == id)
        .values(version=number, content=content, kind=given.kind, turns=turns_told(given.turns))
    )


def note_superseded(parts: Parts, connection: Connection, id: str, by: str) -> None:
    """Say of an entry that another has superseded it: it is found no more, and its history says since when.

    Args:
        parts: Of the store.
        connection: For writing.
        id: The older entry.
        by: The newer one.
    """
    row = connection.execute(select(entries).where(entries.c.id == id)).one()
    connection.execute(
        insert(versions).values(
            entry=id,
            number=row.version + 1,
            content=row.content,
            kind=row.kind,
            turns=row.turns,
            time=parts.clock.now(),
            why=f"superseded by {by}",
        )
    )
    connection.execute(update(entries).where(entries.c.id == id).values(version=row.version + 1, superseded_by=by))
