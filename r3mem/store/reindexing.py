"""The full-text index made anew, from the words that are kept beside texts, and these from the texts."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from sqlalchemy import select, update

from r3mem.errors import FingerprintError, InputError, RecallError
from r3mem.store.adding import queue
from r3mem.store.deleting import UNERASED, erase
from r3mem.store.parts import Parts
from r3mem.store.recalling import held, text_bytes
from r3mem.store.schema import contents
from r3mem.store.words import words_of

PAGE = 500


def reindex(parts: Parts, recall: bool) -> int:
    """Make the index anew; of how many texts.

    Args:
        parts: Of the store.
        recall: Whether texts that are not kept raw are recalled, for their words.
    """
    for n in _numbers(parts):
        _mend(parts, n, recall)
    count, last = 0, 0
    asked = select(contents.c.n, contents.c.owner, contents.c.words).order_by(contents.c.n).limit(PAGE)
    with parts.database.writing() as connection:
        parts.database.words.renew(connection)
        while rows := connection.execute(asked.where(contents.c.n > last)).all():
            for owner in dict.fromkeys(row.owner for row in rows):
                mine = {row.n: row.words for row in rows if row.owner == owner}
                parts.database.words.add(connection, owner, mine)
            count, last = count + len(rows), rows[-1].n
        # The index before may have held words of what was deleted.
        parts.database.say(connection, UNERASED, uuid.uuid4().hex)
    erase(parts)
    return count


def kept_words(text: str) -> str:
    """The words of a text as they are kept beside it.

    Args:
        text: It.
    """
    return " ".join(sorted(words_of(text)))


def _numbers(parts: Parts) -> Iterator[int]:
    last = 0
    while True:
        asked = select(contents.c.n).where(contents.c.n > last).order_by(contents.c.n).limit(PAGE)
        with parts.database.reading() as connection:
            numbers = connection.execute(asked).scalars().all()
        yield from numbers
        if len(numbers) < PAGE:
            return
        last = numbers[-1]


def _mend(parts: Parts, n: int, recall: bool) -> None:
    """Words of a text that are not its own, put right."""
    try:
        with parts.database.reading() as connection:
            found = held(parts, connection, n, f"content {n}")
        if found.row.raw is None and not recall:
            return
        words = kept_words(text_bytes(parts, found, f"content {n}").decode())
    except (RecallError, FingerprintError, InputError):
        # Damaged, another model's or deleted meanwhile: what is known of its words stays.
        return
    if found.row.state == "pending":
        # A text whose place in the queue was lost is compressed after all.
        with parts.database.writing(found.row.owner) as connection:
            there = select(contents.c.n).where(contents.c.n == n, contents.c.state == "pending")
            if connection.execute(there).first() is not None:
                queue(parts, connection, [n])
    if words != found.row.words:
        right = update(contents).where(contents.c.n == n).values(words=words, n_words=words.count(" ") + bool(words))
        with parts.database.writing(found.row.owner) as connection:
            connection.execute(right)
