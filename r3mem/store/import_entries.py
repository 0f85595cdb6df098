"""Entries of an exported file into a store: their texts are compressed anew, so that nothing is taken on trust."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, update

from r3mem.errors import InputError
from r3mem.store.adding import About, put_content, put_entry, put_version
from r3mem.store.entries import Turn
from r3mem.store.export import ABOUT, FORMAT, LINES
from r3mem.store.given import Given, given_metadata, given_source, given_time
from r3mem.store.parts import Parts
from r3mem.store.schema import entries, versions
from r3mem.store.scope import Scope

#: What a file of another kind, or a damaged one, raises.
DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, zipfile.BadZipFile, OSError)


def import_entries(parts: Parts, scope: Scope, path: Path) -> int:
    """Take entries in, all of them or none; how many are new.

    Parts of coarser memories come as entries of their own, and coarser memories are left out: consolidate again.

    Args:
        parts: Of the store.
        scope: Whose they become.
        path: What was exported.

    Raises:
        InputError: No such file, or not one that was exported; the message says which line.
    """
    count, ids = 0, dict[str, str]()
    superseded = dict[str, str]()
    with parts.database.writing(scope.user) as connection:
        for number, line in _lines(path):
            try:
                if line["consolidated"]:
                    continue
                first = str(line["first_id"])
                there = _there(connection, scope.user, first)
                if there is None:
                    there = _take(parts, connection, scope, line, first)
                    count += 1
                    if line["superseded_by"]:
                        superseded[there] = str(line["superseded_by"])
                ids[str(line["id"])] = there
            except DAMAGE as error:
                raise InputError(f"{path}: line {number} of {LINES} cannot be read ({error}): export again") from error
        for id, by in superseded.items():
            if by in ids:
                connection.execute(update(entries).where(entries.c.id == id).values(superseded_by=ids[by]))
    return count


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        with zipfile.ZipFile(path) as file:
            about = json.loads(file.read(ABOUT))
            if about["format"] != FORMAT:
                raise InputError(
                    f"{path} has format {about['format']!r:.20}, this version reads {FORMAT}: use a newer one"
                )
            with file.open(LINES) as lines:
                for number, line in enumerate(lines, 1):
                    yield number, json.loads(line)
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{path} is no file of exported memories, or damaged ({error}): export again") from error


def _there(connection: Connection, user: str, first: str) -> str | None:
    same = (entries.c.id == first) | (entries.c.imported_as == first)
    found: str | None = connection.execute(select(entries.c.id).where(entries.c.owner == user, same)).scalar()
    return found


def _take(parts: Parts, connection: Connection, scope: Scope, line: Mapping[str, Any], first: str) -> str:
    told = list(line["versions"])
    about = About(
        given_source(line["source"]), int(line["start"]), given_time(line["time"]), given_metadata(line["metadata"]),
        imported_as=first[:64],
    )  # fmt: skip
    owner = Scope.of(scope.user, line["agent"], line["session"])
    id = put_entry(parts, connection, owner, _given(told[0]), about)
    _dated(connection, id, 1, told[0])
    for number, version in enumerate(told[1:], 2):
        given = _given(version)
        content = put_content(parts, connection, scope.user, given)
        put_version(parts, connection, id, number, content, given, "updated")
        _dated(connection, id, number, version)
    last = _given(told[-1])
    connection.execute(update(entries).where(entries.c.id == id).values(end_at=int(line["start"]) + len(last.text)))
    return id


def _dated(connection: Connection, id: str, number: int, version: Mapping[str, Any]) -> None:
    here = (versions.c.entry == id) & (versions.c.number == number)
    connection.execute(update(versions).where(here).values(time=int(version["time"]), why=str(version["why"])[:64]))


def _given(version: Mapping[str, Any]) -> Given:
    given = Given.of(str(version["text"]), str(version["kind"]))
    if given.kind not in ("text", "turns", "file"):
        raise ValueError(f"kind {given.kind!r:.20}")
    if hashlib.sha256(given.raw).hexdigest() != version["digest"]:
        raise ValueError("a text does not match its digest")
    turns = tuple(Turn(str(role), int(start), int(end)) for role, start, end in version["turns"])
    return replace(given, turns=turns)
