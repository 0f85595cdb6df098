"""How a text comes out again: from its raw text while that is kept, else from its virtual tokens; never unchecked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from r3mem.errors import NotFound, RecallError, StoreError
from r3mem.store.parts import Parts
from r3mem.store.schema import blobs, contents


@dataclass(frozen=True)
class Held:
    """A content as the database has it, read in one go.

    Attributes:
        row: Its row.
        data: Its virtual tokens, where it has any.
        whole: The coarser content that it is a slice of.
    """

    row: Row[Any]
    data: bytes | None
    whole: Held | None


def held(parts: Parts, connection: Connection, content: int, name: str) -> Held:
    """Read a content, and what it is a slice of.

    Args:
        parts: Of the store.
        connection: Any.
        content: Its number.
        name: What it is called in errors.

    Raises:
        NotFound: It is gone.
        RecallError: Its virtual tokens are damaged or gone.
    """
    row = connection.execute(select(contents).where(contents.c.n == content)).first()
    if row is None:
        raise NotFound(f"{name} is not there any more")
    if row.raw is not None:
        return Held(row, None, None)
    if row.within is not None:
        return Held(row, None, held(parts, connection, row.within, name))
    return Held(row, blob_bytes(parts, connection, content, name), None)


def blob_bytes(parts: Parts, connection: Connection, content: int, name: str) -> bytes:
    """Virtual tokens as they were written.

    Args:
        parts: Of the store.
        connection: Any.
        content: Whose.
        name: What it is called in errors.

    Raises:
        RecallError: They are not there, or not what was written.
    """
    row = connection.execute(select(blobs).where(blobs.c.content == content)).first()
    if row is None:
        raise RecallError(f"{name}: its virtual tokens are gone: restore the store from a copy")
    try:
        if row.place is None:
            data = bytes(row.data)
        elif parts.blobs is None:
            raise StoreError(f"they are kept at {row.place} of a place that this store was not opened with")
        else:
            data = parts.blobs.read(row.place)
    except StoreError as error:
        raise RecallError(f"{name}: its virtual tokens cannot be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != row.sha256:
        where = "the database" if row.place is None else row.place
        raise RecallError(f"{name}: its virtual tokens in {where} are damaged: restore them from a copy")
    return data


def text_bytes(parts: Parts, found: Held, name: str) -> bytes:
    """The text of a content, those very bytes.

    Args:
        parts: Of the store.
        found: What :func:`held` gave.
        name: What it is called in errors.

    Raises:
        RecallError: It cannot be given back exactly.
        FingerprintError: It was made by another model.
    """
    row = found.row
    if row.raw is not None:
        raw = bytes(row.raw)
    elif found.whole is not None:
        raw = text_bytes(parts, found.whole, name)[row.within_start : row.within_end]
    else:
        from r3mem.store.memories import recalled

        assert found.data is not None
        raw = recalled(parts.model.get(), found.data, name).encode()
    if hashlib.sha256(raw).hexdigest() != row.digest:
        raise RecallError(f"{name}: what is recalled is not the text that was kept, so none is given: restore a copy")
    return raw


def text_of(parts: Parts, content: int, name: str) -> str:
    """The text of a content.

    Args:
        parts: Of the store.
        content: Its number.
        name: What it is called in errors.

    Raises:
        NotFound: It is gone.
        RecallError: It cannot be given back exactly.
        FingerprintError: It was made by another model.
    """
    with parts.database.reading() as connection:
        found = held(parts, connection, content, name)
    return text_bytes(parts, found, name).decode()
