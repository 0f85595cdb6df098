"""Files that are whole or as they were before; tensors to such a file, and back."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from r3mem.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def save_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Safetensors' own, imported when it is used: reports replace files too and have no need of torch."""
    from safetensors.torch import save_file as save

    save(tensors, path, metadata)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, what the disk refuses is told with what to do about it.

    Args:
        path: What is being written, named in the error.

    Raises:
        InputError: The disk is full, or nothing may be written there.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for what the disk refuses.
        raise InputError(f"{path} cannot be written ({error}): free some space, or write to another folder") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a place to write at; in the end that file appears whole at the path, or what was there stays.

    Args:
        path: Where; folders are made.

    Raises:
        InputError: If the disk refuses.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_hidden(path), dir=path.parent) as scratch:
            written = Path(scratch) / "written"
            yield written
            written.replace(path)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writes of a file left beside it; only where nobody else is writing that file now.

    Args:
        path: The file that `replacing` was given.
    """
    for scratch in path.parent.glob(f"{glob.escape(_hidden(path))}*"):
        shutil.rmtree(scratch, ignore_errors=True)


def _hidden(path: Path) -> str:
    # Lightning takes any name that contains ckpt_ for that of a numbered checkpoint.
    return f".{path.name.replace('ckpt_', 'ckpt-')}-"


def write_tensors(tensors: dict[str, Tensor], path: Path, about: dict[str, str]) -> None:
    """Write a new file, down to the disk, with the permissions that the user's files have; safetensors gives its own.

    Args:
        tensors: What to write.
        path: Where; nothing may be there yet.
        about: Plain text that goes with the tensors.
    """
    path.touch(exist_ok=False)
    mode = path.stat().st_mode
    save_file(tensors, path, metadata=about)
    path.chmod(mode)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_whole(tensors: dict[str, Tensor], about: dict[str, str], path: Path) -> None:
    """Write or replace a file; it appears whole, or what was there stays.

    Args:
        tensors: What to write.
        about: Plain text that goes with the tensors.
        path: Where; folders are made.

    Raises:
        InputError: If the disk refuses.
    """
    with replacing(path) as written:
        write_tensors(tensors, written, about)


def read_whole(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file, and the text that goes with them.

    Args:
        path: The file.
        kind: What it should be, named in errors.

    Raises:
        InputError: No such file, or not a whole safetensors file.
    """
    if not path.is_file():
        raise InputError(f"{kind} {path}: no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{kind} {path}: not a whole safetensors file ({error}); it may be truncated") from error
