"""Several entries as one coarser memory: one text of a higher ratio, of which theirs are slices from then on."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update

from r3mem.errors import InputError, StoreError
from r3mem.store.adding import About, put_entry
from r3mem.store.database import in_groups
from r3mem.store.deleting import drop_blob, drop_entries
from r3mem.store.entries import Entry
from r3mem.store.given import Given, microseconds
from r3mem.store.parts import Parts
from r3mem.store.rows import found_entries
from r3mem.store.schema import contents, entries, jobs
from r3mem.store.scope import Scope
from r3mem.store.texts import text_of_entry

#: What stands between two texts in a coarser memory.
BETWEEN = "\n\n"


def merge(parts: Parts, scope: Scope, ids: Sequence[str], ratio: int) -> str:
    """Make the coarser memory; its id. Until it is compressed its raw text is kept, and so are its parts' texts.

    Args:
        parts: Of the store.
        scope: Of the entries.
        ids: The entries, in the order in which their texts follow each other; coarser memories are taken apart.
        ratio: Text tokens per virtual token.

    Raises:
        InputError: Fewer than two entries, or some are gone.
        RecallError: One of the texts is damaged; nothing is merged.
    """
    flat, coarser = _flat(parts, ids)
    if len(flat) < 2:
        raise InputError("a coarser memory is made of two entries at least")
    texts = [text_of_entry(parts, entry.id, Scope(scope.user)) for entry in flat]
    given = Given.of(BETWEEN.join(texts))
    about = About(time=microseconds(max(entry.time for entry in flat)), consolidated=True)
    owner = Scope(scope.user, _common([e.agent for e in flat]), _common([e.session for e in flat]))
    with parts.database.writing(scope.user) as connection:
        now = found_entries(connection, [entry.id for entry in flat])
        if any(now.get(entry.id) is None or now[entry.id].digest != entry.digest for entry in flat):
            raise StoreError("entries were changed while they were merged: nothing was done, merge them again")
        made = put_entry(parts, connection, owner, given, about, "consolidated", ratio)
        whole = connection.execute(select(entries.c.content).where(entries.c.id == made)).scalar_one()
        at, placed = 0, set[int]()
        for number, (entry, text) in enumerate(zip(flat, texts, strict=True)):
            end = at + len(text.encode())
            content = connection.execute(select(entries.c.content).where(entries.c.id == entry.id)).scalar_one()
            connection.execute(update(entries).where(entries.c.id == entry.id).values(part_of=made, part_number=number))
            if content != whole and content not in placed:
                placed.add(content)
                connection.execute(
                    update(contents)
                    .where(contents.c.n == content)
                    .values(
                        raw=None,
                        state="ready",
                        error=None,
                        tokens=0,
                        positions=0,
                        model=None,
                        ratio=None,
                        within=whole,
                        within_start=at,
                        within_end=end,
                    )
                )
                drop_blob(parts, connection, content)
                connection.execute(delete(jobs).where(jobs.c.content == content))
            at = end + len(BETWEEN.encode())
        # Their text is in the new one: there is nothing to erase.
        drop_entries(parts, connection, coarser, erasing=False)
    return made


def _flat(parts: Parts, ids: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """Entries to merge, coarser ones replaced by their parts; and those coarser ones."""
    flat, coarser = list[Entry](), list[str]()
    with parts.database.reading() as connection:
        found = found_entries(connection, ids)
        if len(found) < len(set(ids)):
            raise InputError("some of the entries to merge are not there any more: list them again")
        for group in in_groups(ids):
            for id in group:
                inner = select(entries.c.id).where(entries.c.part_of == id).order_by(entries.c.part_number)
                own = list(connection.execute(inner).scalars())
                if own:
                    coarser.append(id)
                    by_id = found_entries(connection, own)
                    flat += [by_id[part] for part in own]
                else:
                    flat.append(found[id])
    return flat, coarser


def _common(names: Sequence[str | None]) -> str | None:
    return names[0] if len(set(names)) == 1 else None
