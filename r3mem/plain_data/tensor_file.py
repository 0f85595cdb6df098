"""Tensors to a file that is whole or as it was before, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from r3mem.errors import InputError
from r3mem.plain_data.seal import RESTORE, SEAL, tensors_digest
from r3mem.plain_data.whole_file import replacing

#: What safetensors and torch raise for a file that is damaged, beside their own error.
DAMAGE = (SafetensorError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError)

if TYPE_CHECKING:
    from torch import Tensor


def save_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Safetensors' own, imported when it is used: reports replace files too and have no need of torch."""
    from safetensors.torch import save_file as save

    save(tensors, path, metadata)


def write_tensors(tensors: dict[str, Tensor], path: Path, about: dict[str, str]) -> None:
    """Write a new file, down to the disk, with the permissions that the user's files have; safetensors gives its own.

    Args:
        tensors: What to write.
        path: Where; nothing may be there yet.
        about: Plain text that goes with the tensors. Files of one text are alike byte for byte; safetensors writes
            several in any order.
    """
    seen = set[int]()
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        if place in seen:  # safetensors writes no memory twice.
            tensors = {**tensors, name: tensor.clone()}
        seen.add(place)
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
        about: Plain text that goes with the tensors; a digest of both is added.
        path: Where; folders are made.

    Raises:
        InputError: If the disk refuses.
    """
    with replacing(path) as written:
        write_tensors(tensors, written, {**about, SEAL: tensors_digest(tensors, about)})


def read_whole(path: Path, kind: str, digest: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a file, and the text that goes with them: those that were written, or an error.

    Args:
        path: The file. Its own digest is checked where it has one, and is still in the text; earlier versions wrote
            none.
        kind: What it should be, named in errors.
        digest: What `tensors_digest` must say of its content, where that is known from elsewhere.

    Raises:
        InputError: No such file, not a whole safetensors file, or not what was written.
    """
    if not path.is_file():
        raise InputError(f"{kind} {path}: no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = file.metadata() or {}
    except OSError as error:
        raise InputError(f"{kind} {path}: cannot be read ({error})") from error
    except DAMAGE as error:
        raise InputError(
            f"{kind} {path}: not a whole safetensors file ({error}); it may be truncated or damaged: {RESTORE}"
        ) from error
    expected = {told for told in (digest, about.get(SEAL)) if told is not None}
    if expected and expected != {tensors_digest(tensors, about)}:
        raise InputError(f"{kind} {path}: damaged, its content does not match its digest: {RESTORE}")
    return tensors, about
