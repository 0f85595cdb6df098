"""Which files are meant by names of files, folders and patterns."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from r3mem.errors import InputError

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Wanted:
    """A file that is to be remembered, or why it cannot be.

    Attributes:
        path: Where it is; None for standard input.
        name: What it is called.
        bytes: Its size; 0 if it has none, as a pipe.
        why: Why it is left out; None if it is not.
    """

    path: Path | None
    name: str
    bytes: int = 0
    why: str | None = None


def find(names: Sequence[str], leave: Sequence[Path] = ()) -> list[Wanted]:
    """Files in the order of the names, those of a folder or a pattern sorted; none twice.

    Hidden files and folders below a folder are left alone, and so are links to folders.

    Args:
        names: Of files, folders and patterns; ``-`` for standard input.
        leave: Files that are left alone: those of the store itself.

    Raises:
        InputError: There is no such file, or nothing fits a pattern.
    """
    left = {os.path.realpath(path) for path in leave}
    found, known = list[Wanted](), set[str]()
    for name in names:
        for wanted in _named(name):
            real = os.path.realpath(wanted.path) if wanted.path is not None else wanted.name
            if real not in known and (real not in left or wanted.name == name):
                known.add(real)
                found.append(wanted)
    return found


def shown(path: str) -> str:
    """A path as a text; bytes that are no UTF-8 are told by their numbers.

    Args:
        path: As the system gives it.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _named(name: str) -> Iterator[Wanted]:
    if name == STANDARD_INPUT:
        yield Wanted(None, "standard input")
        return
    if not name or "\0" in name:
        raise InputError(f"{name!r} is no name of a file: give a file, a folder, a pattern or - for standard input")
    path = Path(name).expanduser()
    try:
        there = os.path.lexists(path)
    except OSError:
        there = False
    if there:
        yield from _below(path) if path.is_dir() else [_looked_at(path, named=True)]
        return
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(name) else []
    if not matches:
        what = "nothing fits this pattern" if glob.has_magic(name) else "no such file or folder"
        raise InputError(f"{shown(name)}: {what}; nothing was remembered")
    for match in matches:
        # A pattern that ends with ** names folders too, whose files it names as well.
        if not os.path.isdir(match):
            yield _looked_at(Path(match), named=False)
        elif "**" not in name:
            yield from _below(Path(match))


def _below(folder: Path) -> Iterator[Wanted]:
    troubles = list[OSError]()
    for at, folders, files in os.walk(folder, onerror=troubles.append):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for file in sorted(each for each in files if not each.startswith(".")):
            yield _looked_at(Path(at) / file, named=False)
        for trouble in troubles:
            yield Wanted(None, shown(trouble.filename), 0, f"cannot be read ({trouble.strerror})")
        troubles.clear()
    for trouble in troubles:
        yield Wanted(None, shown(trouble.filename), 0, f"cannot be read ({trouble.strerror})")


def _looked_at(path: Path, named: bool) -> Wanted:
    name = shown(str(path))
    try:
        status = path.stat()
    except OSError as error:
        return Wanted(path, name, 0, f"cannot be read ({error.strerror}): check its name and rights")
    # Who names a pipe means it; one that lies in a folder would be waited for in vain.
    if not stat.S_ISREG(status.st_mode) and not named:
        return Wanted(path, name, 0, "is no file that could be read to its end, but a pipe, a device or the like")
    return Wanted(path, name, status.st_size)
