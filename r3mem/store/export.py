"""A user's entries as one zip file, which can be read without us: JSON Lines and safetensors.

::

    about.json          what it is, of which format, and the SHA-256 of entries.jsonl, which covers times and metadata
    entries.jsonl       a line an entry, with the text of each version
    memories/DIGEST.safetensors     virtual tokens of a text with that SHA-256; `r3mem.Memory.load` reads it too
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

from sqlalchemy import select

from r3mem.errors import InputError, RecallError, StoreError
from r3mem.plain_data.whole_file import replacing
from r3mem.store.entries import Entry
from r3mem.store.parts import Parts
from r3mem.store.recalling import blob_bytes, held, text_bytes
from r3mem.store.rows import turns_of
from r3mem.store.schema import contents, entries, versions
from r3mem.store.shelf import Shelf
from r3mem.store.texts import named

#: Format 1 had no digest of its lines.
FORMAT = 2
ABOUT, LINES, MEMORIES = "about.json", "entries.jsonl", "memories"


def export_entries(shelf: Shelf, parts: Parts, path: Path) -> int:
    """Write the file; how many entries.

    Args:
        shelf: The entries.
        parts: Of the store.
        path: Where.

    Raises:
        RecallError: An entry is damaged; nothing is written.
        InputError: Nothing may be written there.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder; make it, or give another place")
    with replacing(path) as scratch:
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as out:
            count = _write(shelf, parts, out)
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
    return count


def _write(shelf: Shelf, parts: Parts, out: zipfile.ZipFile) -> int:
    written = set[str]()
    lines = [json.dumps(_line(parts, entry, out, written)) for entry in shelf.entries()]
    data = "".join(line + "\n" for line in lines).encode()
    told = {"what": "memories of r3mem", "format": FORMAT, "user": shelf.scope.user}
    out.writestr(ABOUT, json.dumps({**told, "sha256": hashlib.sha256(data).hexdigest()}))
    out.writestr(LINES, data)
    return len(lines)


def _line(parts: Parts, entry: Entry, out: zipfile.ZipFile, written: set[str]) -> dict[str, Any]:
    asked = select(versions, entries.c.imported_as, entries.c.part_number).join(
        entries, entries.c.id == versions.c.entry
    )
    with parts.database.reading() as connection:
        rows = connection.execute(asked.where(versions.c.entry == entry.id).order_by(versions.c.number)).all()
        if not rows:
            raise StoreError(f"entry {entry.id} was deleted while it was exported: export again")
        kept = {row.content: held(parts, connection, row.content, named(entry.id, row.number)) for row in rows}
    told = []
    for row in rows:
        found = kept[row.content]
        text = text_bytes(parts, found, named(entry.id, row.number)).decode()
        digest = found.row.digest
        data = found.data if found.data is not None else _beside_raw(parts, row.content)
        if data is not None and digest not in written:
            written.add(digest)
            out.writestr(f"{MEMORIES}/{digest}.safetensors", data)
        told.append(
            {
                "number": row.number,
                "time": row.time,
                "why": row.why,
                "kind": row.kind,
                "text": text,
                "digest": digest,
                "memory": f"{MEMORIES}/{digest}.safetensors" if digest in written else None,
                "turns": [[turn.role, turn.start, turn.end] for turn in turns_of(row.turns)],
            }
        )
    plain = entry.plain()
    kept_names = (
        "id",
        "agent",
        "session",
        "source",
        "start",
        "time",
        "created",
        "metadata",
        "superseded_by",
        "part_of",
    )
    return {
        **{name: plain[name] for name in kept_names}, "part_number": rows[0].part_number,
        "consolidated": entry.level == "consolidated" and entry.part_of is None,
        "first_id": rows[0].imported_as or entry.id, "versions": told,
    }  # fmt: skip


def _beside_raw(parts: Parts, content: int) -> bytes | None:
    """Virtual tokens of a text that is kept raw as well."""
    with parts.database.reading() as connection:
        ready = select(contents.c.n).where(
            contents.c.n == content, contents.c.state == "ready", contents.c.within.is_(None)
        )
        if connection.execute(ready).first() is None:
            return None
        try:
            return blob_bytes(parts, connection, content, f"content {content}")
        except RecallError:
            # The text is whole; its virtual tokens can be made from it.
            return None
