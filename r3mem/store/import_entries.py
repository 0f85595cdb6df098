"""Entries of an exported file into a store: their texts are compressed anew, so that nothing is taken on trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, update

from r3mem.errors import InputError
from r3mem.store.adding import About, put_content, put_entry, put_version
from r3mem.store.entries import Turn
from r3mem.store.export import LINES
from r3mem.store.exported_lines import exported_lines
from r3mem.store.given import Given, given_metadata, given_source, given_time
from r3mem.store.parts import Parts
from r3mem.store.schema import entries, versions
from r3mem.store.scope import Scope


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
        for number, line in exported_lines(path):
            if line["consolidated"]:
                continue
            first = line["first_id"]
            there = _there(connection, scope.user, first)
            if there is None:
                try:
                    there = _take(parts, connection, scope, line, first)
                except InputError as error:
                    raise InputError(f"{path}: line {number} of {LINES}: {error}") from error
                count += 1
                if line["superseded_by"] is not None:
                    superseded[there] = line["superseded_by"]
            ids[line["id"]] = there
        for id, by in superseded.items():
            if by in ids:
                connection.execute(update(entries).where(entries.c.id == id).values(superseded_by=ids[by]))
    return count


def _there(connection: Connection, user: str, first: str) -> str | None:
    same = (entries.c.id == first) | (entries.c.imported_as == first)
    found: str | None = connection.execute(select(entries.c.id).where(entries.c.owner == user, same)).scalar()
    return found


def _take(parts: Parts, connection: Connection, scope: Scope, line: Mapping[str, Any], first: str) -> str:
    told = line["versions"]
    about = About(
        given_source(line["source"]), line["start"], given_time(line["time"]), given_metadata(line["metadata"]),
        imported_as=first,
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
    connection.execute(update(entries).where(entries.c.id == id).values(end_at=line["start"] + len(last.text)))
    return id


def _dated(connection: Connection, id: str, number: int, version: Mapping[str, Any]) -> None:
    here = (versions.c.entry == id) & (versions.c.number == number)
    connection.execute(update(versions).where(here).values(time=version["time"], why=version["why"][:64]))


def _given(version: Mapping[str, Any]) -> Given:
    given = Given.of(version["text"], version["kind"])
    return replace(given, turns=tuple(Turn(*turn) for turn in version["turns"]))
