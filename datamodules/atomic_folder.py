"""Folders that are whole or not there at all, made by one process while the others wait.

A folder is written under a temporary name and renamed when complete. A lock lets one process of a machine write while
the others wait; where locks do not work (some network disks), the first rename wins.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from r3mem.errors import InputError
from r3mem.plain_data.scratch_folder import scratch_beside


def folder_for(root: Path, key: dict[str, Any]) -> Path:
    """Where what depends on ``key`` is kept.

    Args:
        root: Folder that holds all of its kind.
        key: Plain data: everything that the content depends on.
    """
    return root / hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()


def make_once(folder: Path, write: Callable[[Path], None]) -> bool:
    """Make a folder unless it is there.

    Args:
        folder: The folder.
        write: Writes the content into the folder it is given.

    Returns:
        True if it was made now.

    Raises:
        InputError: If the disk refuses.
    """
    if folder.is_dir():
        return False
    root = folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{folder.name}.lock"):
            if folder.is_dir():
                return False
            make(folder, write)
    except OSError as error:
        raise InputError(
            f"cache {root} cannot be written ({error}): free some space, or set cache_dir or R3MEM_CACHE to "
            "another folder"
        ) from error
    return True


def make(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder under another name and rename it when it is complete."""
    with scratch_beside(folder) as scratch:
        made = scratch / "made"
        made.mkdir()
        write(made)
        _sync(made)
        try:
            made.rename(folder)
        except OSError:
            # Another rank, on a disk without locks, was first: its cache has the same content.
            if not folder.is_dir():
                raise
        _sync(folder.parent)


def flush(file: BinaryIO) -> None:
    """See to it that a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
