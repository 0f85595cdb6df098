"""What a user gives as a path."""

from __future__ import annotations

import os
from pathlib import Path

from r3mem.errors import InputError


def given_path(given: object, what: str) -> Path:
    """A path that was given.

    Args:
        given: A string, or a path object.
        what: What lies there, named in the error.

    Raises:
        InputError: Anything else, or a name that no file can have.
    """
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(path, str):
        raise InputError(f"the path of {what} is a str or a pathlib.Path, not {type(given).__name__}: give its name")
    if "\0" in path:
        raise InputError(f"the path of {what} holds a zero character ({path!r}): no file can have that name")
    return Path(path)
