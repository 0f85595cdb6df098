"""Texts and memories of entries, by what their versions and contents say."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sqlalchemy import select

from r3mem.errors import InputError, RecallError
from r3mem.errors.whole_numbers import whole_number
from r3mem.store.entries import Entry
from r3mem.store.opened import Opened
from r3mem.store.parts import Parts
from r3mem.store.recalling import blob_bytes, held, text_bytes, text_of
from r3mem.store.rows import found_entry
from r3mem.store.schema import contents, versions
from r3mem.store.scope import Scope

if TYPE_CHECKING:
    from r3mem.memory import Memory

#: Seconds between looks at a text that another process compresses.
LOOK_SECONDS = 0.05


def named(id: str, version: int | None = None) -> str:
    """What an entry is called in errors.

    Args:
        id: The entry.
        version: Of it.
    """
    return f"entry {id}" if version is None else f"entry {id}, version {version}"


def text_of_entry(parts: Parts, id: str, scope: Scope, version: int | None = None) -> str:
    """The exact text of an entry.

    Args:
        parts: Of the store.
        id: The entry.
        scope: Whose it is.
        version: None for the current one.

    Raises:
        NotFound: There is no such entry.
        InputError: It has no such version.
        RecallError: It cannot be given back exactly.
        FingerprintError: It was made by another model.
    """
    with parts.database.reading() as connection:
        entry = found_entry(connection, id, scope)
        number = entry.version if version is None else version
        # A number beyond what a column holds would be the database's error.
        there = 1 <= whole_number(number, "version") <= entry.version
        asked = select(versions.c.content).where(versions.c.entry == id, versions.c.number == number)
        content = connection.execute(asked).scalar() if there else None
        if content is None:
            raise InputError(f"entry {id} has no version {version!r:.20}: it has 1 to {entry.version}")
        found = held(parts, connection, content, named(id, version))
    return text_bytes(parts, found, named(id, version)).decode()


def memory_of(store: Opened, entry: Entry) -> Memory:
    """What a model reads of an entry. What is pending is compressed first; a part of a coarser memory is made anew.

    Args:
        store: An open store.
        entry: The entry.

    Raises:
        InputError: It could not be compressed.
        RecallError: It is damaged.
    """
    from r3mem.store.memories import unpacked

    parts = store._parts_open()
    while True:
        with parts.database.reading() as connection:
            content = connection.execute(
                select(versions.c.content).where(versions.c.entry == entry.id, versions.c.number == entry.version)
            ).scalar()
            row = connection.execute(select(contents).where(contents.c.n == content)).first()
            if row is None:
                raise RecallError(f"{named(entry.id)} was deleted meanwhile")
            if row.state == "ready" and row.within is None:
                return unpacked(blob_bytes(parts, connection, row.n, named(entry.id)), named(entry.id))
        if row.within is not None:
            return store.model().retain(text_of(parts, row.n, named(entry.id)))
        if row.state == "failed":
            raise InputError(f"{named(entry.id)} could not be compressed ({row.error}): read its text by recall")
        if not store._compressor.some([row.n]):
            time.sleep(LOOK_SECONDS)
