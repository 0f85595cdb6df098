"""How a text gets in: its content, its words, its place in the queue and its entry, all in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from r3mem.store.database import in_groups, one_or_all
from r3mem.store.given import Given
from r3mem.store.parts import Parts
from r3mem.store.rows import turns_told
from r3mem.store.schema import contents, entries, jobs, versions
from r3mem.store.scope import Scope
from r3mem.store.words import words_of


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
        connection: For writing what is this user's.
        owner: The user.
        given: The text.
        ratio: Text tokens per virtual token; None for the model's own.
    """
    return put_contents(parts, connection, owner, [given], ratio)[given.digest]


def put_contents(
    parts: Parts, connection: Connection, owner: str, texts: Sequence[Given], ratio: int | None = None
) -> dict[str, int]:
    """The numbers of contents of several texts, by digest: as of :func:`put_content`, in few statements.

    Args:
        parts: Of the store.
        connection: For writing what is this user's.
        owner: The user.
        texts: The texts; equal ones are one content.
        ratio: As of :func:`put_content`.
    """
    waiting, found = {given.digest: given for given in texts}, dict[str, int]()
    for digests in in_groups(list(waiting)):
        one = contents.c.digest == digests[0] if len(digests) == 1 else contents.c.digest.in_(digests)
        same = select(contents.c.digest, contents.c.n).where(contents.c.owner == owner, one)
        found |= {row.digest: row.n for row in connection.execute(same)}
    waiting = {digest: given for digest, given in waiting.items() if digest not in found}
    if not waiting:
        return found
    words = {digest: sorted(words_of(given.text)) for digest, given in waiting.items()}
    rows = [
        {
            "owner": owner, "digest": digest, "bytes": len(given.raw), "raw": given.raw,
            "words": " ".join(words[digest]), "n_words": len(words[digest]), "state": "pending", "ratio": ratio,
            "tokens": 0, "positions": 0,
        }
        for digest, given in waiting.items()
    ]  # fmt: skip
    added = connection.execute(insert(contents).returning(contents.c.digest, contents.c.n), one_or_all(rows)).all()
    parts.database.words.add(connection, owner, {row.n: " ".join(words[row.digest]) for row in added})
    queue(parts, connection, [row.n for row in added])
    return found | {row.digest: row.n for row in added}


def queue(parts: Parts, connection: Connection, numbers: Sequence[int]) -> None:
    """Let contents be compressed.

    Args:
        parts: Of the store.
        connection: For writing.
        numbers: Of the contents; their raw texts are there.
    """
    parts.database.insert_new(
        connection, jobs, [{"content": n, "queued": parts.clock.now(), "until": 0, "attempts": 0} for n in numbers]
    )


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
    return put_entries(parts, connection, scope, [(given, about)], why, ratio)[0]


def put_entries(
    parts: Parts, connection: Connection, scope: Scope, texts: Sequence[tuple[Given, About]], why: str = "added",
    ratio: int | None = None,
) -> list[str]:  # fmt: skip
    """Make several entries, in few statements; their ids.

    Args:
        parts: Of the store.
        connection: For writing.
        scope: Whose they are.
        texts: The texts, each with what is kept beside it.
        why: Of their first versions.
        ratio: As of :func:`put_content`.
    """
    numbers = put_contents(parts, connection, scope.user, [given for given, _ in texts], ratio)
    made, first = list[dict[str, Any]](), list[dict[str, Any]]()
    for given, about in texts:
        id, now, turns, content = uuid.uuid4().hex, parts.clock.now(), turns_told(given.turns), numbers[given.digest]
        made.append(
            {
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
        )
        first.append(
            {
                "entry": id,
                "number": 1,
                "content": content,
                "kind": given.kind,
                "turns": turns,
                "time": now,
                "why": why,
            }
        )
    connection.execute(insert(entries), one_or_all(made))
    connection.execute(insert(versions), one_or_all(first))
    return [row["id"] for row in made]


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
