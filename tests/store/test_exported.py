"""Exported files that were damaged or changed: refused as a whole, with the line and what to do, in words of ours."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r3mem import InputError
from r3mem.store import MemoryStore

#: Words of Python that say nothing to who reads them.
FOREIGN = ("NoneType", "subscriptable", "KeyError", "object has no", "indices", "argument", "literal", "Expecting")


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def rewritten(path: Path, parts: dict[str, bytes], lines: bytes | None = None, honest: bool = True) -> Path:
    """The file with other lines, by the rule of the docs: their SHA-256 is in about.json."""
    if lines is not None:
        parts = {**parts, "entries.jsonl": lines}
        if honest:
            about = {**json.loads(parts["about.json"]), "sha256": hashlib.sha256(lines).hexdigest()}
            parts["about.json"] = json.dumps(about).encode()
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)
    return path


@pytest.fixture
def exported(store: MemoryStore, tmp_path: Path) -> Path:
    store.add("first", user="ann", source="notes", metadata={"n": 1}, time="2020-01-31T12:00:00+00:00")
    store.add([{"role": "user", "content": "second"}, {"role": "bot", "content": "third"}], user="ann", session="s")
    store.export(tmp_path / "ann.zip", user="ann")
    return tmp_path / "ann.zip"


def refused(store: MemoryStore, path: Path, why: str) -> None:
    with pytest.raises(InputError, match=why) as told:
        store.import_(path, user="bob")
    assert not [word for word in FOREIGN if word in str(told.value)], told.value
    assert "export again" in str(told.value) or "give" in str(told.value) or "version of r3mem" in str(told.value)
    assert store.list(user="bob").total == 0


def changed(line: bytes, *keys: Any, to: Any = ...) -> bytes:
    """A line with another value at a place, or without it."""
    told = json.loads(line)
    inner = told
    for key in keys[:-1]:
        inner = inner[key]
    if to is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = to
    return json.dumps(told).encode()


def test_lines_that_are_not_as_they_should_be(exported: Path, store: MemoryStore, tmp_path: Path) -> None:
    parts = parts_of(exported)
    one, two = parts["entries.jsonl"].splitlines()
    fields = [(name,) for name in json.loads(two) if name not in ("created", "part_of", "part_number")]
    fields += [("versions", 0, name) for name in ("text", "digest", "why", "kind", "time", "turns")]
    cases = [(changed(two, *keys), f"has no {keys[-1]}") for keys in fields]
    # An object is right for metadata alone, a number for times and places.
    odd = [(keys, [7.5] if keys[-1] not in ("versions", "turns") else 7.5) for keys in fields]
    cases += [(changed(two, *keys, to=value), rf"{keys[-1]} is a (list|number), and has to be") for keys, value in odd]
    cases += [
        (b"null", "is null, and has to be an object"),
        (b"[]", "is a list, and has to be an object"),
        (b"3", "is a whole number"),
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (changed(two, "versions", to=[]), "versions is empty"),
        (changed(two, "versions", 0, to=None), "version 1 is null"),
        (changed(two, "versions", 0, "text", to="other"), "does not match its digest"),
        (changed(two, "versions", 0, "turns", to=[["user", 6, 99]]), "turns are"),
        (changed(two, "versions", 0, "turns", to=[["user", "6", 7]]), "turns are"),
        (changed(two, "versions", 0, "turns", to=[[]]), "turns are"),
        (changed(two, "versions", 0, "kind", to="x"), "kind is text, turns or file"),
        (changed(two, "versions", 0, "time", to=10**30), "time 10+ is not possible"),
        (changed(two, "start", to=-1), "start -1 is not possible"),
        (changed(two, "time", to="yesterday"), "give it as"),
        (changed(two, "session", to=""), "session is empty: give"),
        (changed(two, "first_id", to="x" * 65), "more than 64"),
    ]
    for line, why in cases:
        lines = one + b"\n" + line + b"\n"
        refused(store, rewritten(tmp_path / "odd.zip", parts, lines), f"line 2 of entries.jsonl.*{why}")
    good = rewritten(tmp_path / "good.zip", parts, one + b"\n" + two + b"\n")
    assert store.import_(good, user="bob") == 2


def test_what_is_missing_or_changed_is_found(exported: Path, store: MemoryStore, tmp_path: Path) -> None:
    parts, odd = parts_of(exported), tmp_path / "odd.zip"
    for name in ("entries.jsonl", "about.json"):
        refused(store, rewritten(odd, {n: d for n, d in parts.items() if n != name}), f"holds no {name}")
    for old, new in (("2020-01-31", "2020-01-30"), ('"n": 1', '"n": 2'), ('"session": "s"', '"session": "t"')):
        lines = parts["entries.jsonl"].replace(old.encode(), new.encode())
        assert lines != parts["entries.jsonl"]
        refused(store, rewritten(odd, parts, lines, honest=False), "is not what was exported .its SHA-256")
    refused(store, rewritten(odd, parts, b"", honest=False), "is not what was exported")
    abouts = [
        (b"null", "about.json is null"), (b"{}", "about.json has no format"), (b"x", "about.json is no JSON"),
        (b'{"format": 3}', "has format 3, this version reads 1 to 2"), (b'{"format": "2"}', "format is a string"),
        (b'{"format": 2}', "about.json has no sha256"), (b'{"format": 0}', "has format 0"),
    ]  # fmt: skip
    for about, why in abouts:
        refused(store, rewritten(odd, {**parts, "about.json": about}), why)
    refused(store, rewritten(odd, {"about.json": b'{"format": 9}'}), "has format 9")
    refused(store, tmp_path / "none.zip", "no such file; give one")
    data = bytearray(exported.read_bytes())
    data[80] ^= 1
    odd.write_bytes(data)
    refused(store, odd, "export again")
    odd.write_bytes(exported.read_bytes()[:-30])
    refused(store, odd, "is no zip file, or a damaged one")
    odd.write_bytes(b"")
    refused(store, odd, "is no zip file, or a damaged one")


def test_files_of_format_1_are_read(exported: Path, store: MemoryStore, tmp_path: Path) -> None:
    parts = parts_of(exported)
    about = {key: value for key, value in json.loads(parts["about.json"]).items() if key != "sha256"}
    old = rewritten(tmp_path / "old.zip", {**parts, "about.json": json.dumps({**about, "format": 1}).encode()})
    assert store.import_(old, user="bob") == 2 and store.import_(exported, user="bob") == 0


def test_a_file_that_somebody_else_wrote(url: str, opened: Callable[..., MemoryStore], tmp_path: Path) -> None:
    text = "Written by hand."
    digest = hashlib.sha256(text.encode()).hexdigest()
    version = {"number": 1, "time": 0, "why": "added", "kind": "text", "text": text, "digest": digest, "turns": []}
    line = {
        "id": "mine-1", "first_id": "mine-1", "agent": None, "session": None, "source": "hand", "start": 0,
        "time": "2026-01-31T12:00:00+00:00", "metadata": {}, "superseded_by": None, "consolidated": False,
        "versions": [version],
    }  # fmt: skip
    parts = {"about.json": b'{"format": 1}', "entries.jsonl": json.dumps(line).encode()}
    store = opened(url)
    assert store.import_(rewritten(tmp_path / "hand.zip", parts), user="ann") == 1
    (hit,) = store.search("hand", user="ann")
    assert (hit.text, hit.source, hit.time.year) == (text, "hand", 2026)
