"""How entries go: every version, text, word and virtual token of theirs, and then the bytes that these had in files."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, select, update

from r3mem.errors import StoreError
from r3mem.store.compression import sweep
from r3mem.store.database import in_groups, said
from r3mem.store.parts import Parts
from r3mem.store.schema import blobs, contents, entries, jobs, loose, meta, versions
from r3mem.store.unmerging import cut_loose, staying, wholes_of

TRIES = 10
#: Name in the table of what the store knows: something was deleted, and its bytes may still be in the files.
UNERASED = "unerased"
#: Name of why they are there still.
WHY_UNERASED = "unerased_why"
BEING_ERASED = "a process erases them now, or ended before it could: the next deletion or opening erases them"


def delete_entries(parts: Parts, owner: str, ids: Sequence[str]) -> int:
    """Delete entries, and erase their bytes.

    Args:
        parts: Of the store.
        owner: Whose they are.
        ids: The entries; they were found in their user's scope. Of a coarser memory its parts go with it.

    Returns:
        How many were deleted.
    """
    if not ids:
        return 0
    for _ in range(TRIES):
        with parts.database.reading() as connection:
            doomed = _with_parts(connection, ids)
            wholes = wholes_of(connection, doomed)
        # Parts of a coarser memory that stay get a text of their own again, before the whole goes.
        for whole in wholes:
            cut_loose(parts, owner, whole, doomed)
        with parts.database.writing(owner) as connection:
            doomed = _with_parts(connection, ids)
            if any(staying(connection, whole, doomed) for whole in wholes_of(connection, doomed)):
                # Another process has merged them meanwhile, and their texts would stay in the whole.
                continue
            broken = _broken(connection, doomed)
            count = drop_entries(parts, connection, doomed)
            drop_entries(parts, connection, broken)
        erase(parts)
        return count
    raise StoreError("these entries are merged by others again and again: nothing was deleted, delete them again")


def drop_entries(parts: Parts, connection: Connection, ids: Sequence[str], erasing: bool = True) -> int:
    """Delete the rows of entries; how many entries.

    Args:
        parts: Of the store.
        connection: For writing.
        ids: The entries.
        erasing: Whether bytes go that are nowhere else.
    """
    touched, count = set[int](), 0
    for group in in_groups(ids):
        touched |= set(connection.execute(select(versions.c.content).where(versions.c.entry.in_(group))).scalars())
        connection.execute(delete(versions).where(versions.c.entry.in_(group)))
        count += connection.execute(delete(entries).where(entries.c.id.in_(group))).rowcount
        # What they had superseded is found again.
        connection.execute(update(entries).where(entries.c.superseded_by.in_(group)).values(superseded_by=None))
        connection.execute(update(entries).where(entries.c.part_of.in_(group)).values(part_of=None, part_number=None))
    drop_contents(parts, connection, touched)
    if count and erasing:
        parts.database.say(connection, UNERASED, uuid.uuid4().hex)
    return count


def drop_contents(parts: Parts, connection: Connection, touched: Iterable[int]) -> None:
    """Delete those of some contents that no version has, and that no other content is a slice of.

    Args:
        parts: Of the store.
        connection: For writing.
        touched: The contents.
    """
    left = sorted(touched)
    while left:
        wholes = set[int]()
        for group in in_groups(left):
            rows = connection.execute(
                select(contents.c.n, contents.c.owner, contents.c.words, contents.c.within).where(
                    contents.c.n.in_(group)
                )
            ).all()
            used = set(connection.execute(select(versions.c.content).where(versions.c.content.in_(group))).scalars())
            used |= set(connection.execute(select(contents.c.within).where(contents.c.within.in_(group))).scalars())
            for row in (row for row in rows if row.n not in used):
                _drop_content(parts, connection, row.n, row.owner, row.words)
                wholes |= {row.within} - {None}
        left = sorted(wholes)


def _drop_content(parts: Parts, connection: Connection, n: int, owner: str, words: str) -> None:
    parts.database.words.remove(connection, n, owner, words)
    drop_blob(parts, connection, n)
    connection.execute(delete(jobs).where(jobs.c.content == n))
    connection.execute(delete(contents).where(contents.c.n == n))


def drop_blob(parts: Parts, connection: Connection, content: int) -> None:
    """Delete a content's virtual tokens; those outside the database are noted, and removed by :func:`erase`.

    Args:
        parts: Of the store.
        connection: For writing.
        content: The content.
    """
    place = connection.execute(select(blobs.c.place).where(blobs.c.content == content)).scalar()
    if place is not None:
        # As if noted long ago: nobody is about to take it into a memory.
        parts.database.insert_new(connection, loose, [{"place": place, "since": 0}])
    connection.execute(delete(blobs).where(blobs.c.content == content))


def erase(parts: Parts) -> str | None:
    """Take the bytes of what was deleted out of all files.

    If that is not possible now, the next deletion or opening does it, and stats say so.

    Args:
        parts: Of the store.

    Returns:
        None if it is done; else why not, and what to do.
    """
    left = sweep(parts)
    with parts.database.reading() as connection:
        due = said(connection, UNERASED)
    why = parts.database.erase()
    if why is None and left:
        why = f"files of virtual tokens ({len(left)}) cannot be removed: give the right to remove files of `blobs`"
    if why is None and due is None:
        return None
    try:
        with parts.database.writing() as connection:
            if why is not None:
                parts.database.say(connection, WHY_UNERASED, why)
            else:
                # What another has deleted meanwhile may have come too late for this: its sign stays.
                connection.execute(delete(meta).where(meta.c.name == UNERASED, meta.c.value == due))
                connection.execute(delete(meta).where(meta.c.name == WHY_UNERASED))
        parts.unerased = None
    except StoreError as error:
        # What was deleted is gone all the same; a full disk has no room for the reason either.
        parts.unerased = why or str(error)
        return parts.unerased
    return why


def unerased(parts: Parts, connection: Connection) -> str | None:
    """Why bytes of what was deleted are still in the files; None if none are.

    Args:
        parts: Of the store.
        connection: Any.
    """
    if said(connection, UNERASED) is None:
        return None
    return parts.unerased or said(connection, WHY_UNERASED) or BEING_ERASED


def erase_what_is_left(parts: Parts) -> None:
    """Erase what a process deleted that did not live to erase it.

    Args:
        parts: Of the store.
    """
    with parts.database.reading() as connection:
        due = said(connection, UNERASED) is not None
    if due:
        erase(parts)


def _with_parts(connection: Connection, ids: Sequence[str]) -> list[str]:
    found = dict.fromkeys(ids)
    for group in in_groups(list(ids)):
        found |= dict.fromkeys(connection.execute(select(entries.c.id).where(entries.c.part_of.in_(group))).scalars())
    return list(found)


def _broken(connection: Connection, doomed: Sequence[str]) -> list[str]:
    """Coarser memories that lose a part: they hold its text, and go too."""
    found = set[str]()
    for group in in_groups(doomed):
        found |= set(connection.execute(select(entries.c.part_of).where(entries.c.id.in_(group))).scalars()) - {None}
    return sorted(found - set(doomed))
