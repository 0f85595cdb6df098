"""The lines of an exported file, checked before they are used; what is wrong is told with the line's number."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from r3mem.errors import InputError
from r3mem.store.export import ABOUT, FORMAT, LINES

#: What reading a file that is no zip, or a damaged one, raises.
DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, EOFError, RuntimeError)
AGAIN = "export again, or take an undamaged copy"
_BYTES = 1 << 20
#: Times that can be told: the years 1 to 9999, in microseconds since 1970.
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
_NAMES: dict[type | None, str] = {
    str: "a string", int: "a whole number", bool: "true or false", list: "a list", dict: "an object", None: "null",
    float: "a number",
}  # fmt: skip


def exported_lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The lines of an exported file, each with its number from 1.

    Args:
        path: The file.

    Raises:
        InputError: It is none, of a newer format, damaged or changed; the message says where.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give one that export wrote")
    try:
        with zipfile.ZipFile(path) as file:
            digest = _digest_told(path, _member(path, file, ABOUT))
            _member(path, file, LINES, read=False)
            if digest is not None and digest != _digest(file):
                raise InputError(
                    f"{path}: {LINES} is not what was exported (its SHA-256 is not that of {ABOUT}), so nothing is "
                    f"taken in: {AGAIN}"
                )
            with file.open(LINES) as lines:
                for number, line in enumerate(lines, 1):
                    yield number, line_of(line, f"{path}: line {number} of {LINES}")
    except DAMAGE as error:
        raise InputError(f"{path} is no zip file, or a damaged one ({error}): {AGAIN}") from error


def line_of(line: bytes, name: str) -> Mapping[str, Any]:
    """An entry as a line tells it, all of it of the right kinds.

    Args:
        line: JSON.
        name: What it is called in errors.

    Raises:
        InputError: Something in it is not as :mod:`r3mem.store.export` writes it.
    """
    told = _object(_json(line, name), name)
    for field in ("id", "first_id", "time"):
        _of_kind(told, field, name, str)
    if len(told["first_id"]) > 64:
        raise InputError(f"{name}: first_id has more than 64 characters: {AGAIN}")
    for field in ("agent", "session", "source", "superseded_by"):
        _of_kind(told, field, name, str, None)
    _of_kind(told, "consolidated", name, bool)
    _of_kind(told, "metadata", name, dict)
    _between(told, "start", name, 0, 1 << 62)
    if not _of_kind(told, "versions", name, list):
        raise InputError(f"{name}: versions is empty, so there is no text: {AGAIN}")
    for place, version in enumerate(told["versions"]):
        _check_version(version, f"{name}, version {place + 1}")
    return told


def _check_version(given: Any, name: str) -> None:
    told = _object(given, name)
    for field in ("text", "digest", "why", "kind"):
        _of_kind(told, field, name, str)
    if told["kind"] not in ("text", "turns", "file"):
        raise InputError(f"{name}: kind is text, turns or file, not {told['kind']!r:.40}: {AGAIN}")
    if hashlib.sha256(told["text"].encode("utf-8", "surrogatepass")).hexdigest() != told["digest"]:
        raise InputError(f"{name}: the text does not match its digest: {AGAIN}")
    _between(told, "time", name, _FIRST, _LAST)
    last = 0
    for turn in _of_kind(told, "turns", name, list):
        kinds = [type(part) for part in turn] if isinstance(turn, list) else []
        if kinds != [str, int, int] or not last <= turn[1] <= turn[2] <= len(told["text"]):
            raise InputError(
                f"{name}: turns are [role, first character, one past the last], one behind the other, within the text: "
                f"{AGAIN}"
            )
        last = turn[2]


def _member(path: Path, file: zipfile.ZipFile, name: str, read: bool = True) -> bytes:
    if name not in file.namelist():
        raise InputError(f"{path} holds no {name}: it is no file of exported memories, or cut: {AGAIN}")
    return file.read(name) if read else b""


def _digest_told(path: Path, data: bytes) -> str | None:
    """The digest of the lines, which files of format 1 do not have."""
    name = f"{path}: {ABOUT}"
    told = _object(_json(data, name), name)
    form = _of_kind(told, "format", name, int)
    if form not in range(1, FORMAT + 1):
        raise InputError(
            f"{path} has format {form}, this version reads 1 to {FORMAT}: take the version of r3mem that wrote it"
        )
    return None if form == 1 else str(_of_kind(told, "sha256", name, str))


def _digest(file: zipfile.ZipFile) -> str:
    found = hashlib.sha256()
    with file.open(LINES) as lines:
        while data := lines.read(_BYTES):
            found.update(data)
    return found.hexdigest()


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is no JSON: {AGAIN}") from error


def _object(told: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(told, dict):
        raise InputError(f"{name} is {_name(told)}, and has to be an object: {AGAIN}")
    return told


def _of_kind(told: Mapping[str, Any], field: str, name: str, *kinds: type | None) -> Any:
    if field not in told:
        raise InputError(f"{name} has no {field}: {AGAIN}")
    value = told[field]
    kind = None if value is None else type(value)
    if kind not in kinds:
        needed = " or ".join(_NAMES[each] for each in kinds)
        raise InputError(f"{name}: {field} is {_name(value)}, and has to be {needed}: {AGAIN}")
    return value


def _between(told: Mapping[str, Any], field: str, name: str, least: int, most: int) -> None:
    value = _of_kind(told, field, name, int)
    if not least <= value <= most:
        raise InputError(f"{name}: {field} {value!r:.30} is not possible: {AGAIN}")


def _name(value: Any) -> str:
    return _NAMES.get(None if value is None else type(value), "something else")
