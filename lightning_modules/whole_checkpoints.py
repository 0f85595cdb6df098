"""Checkpoint files that are whole or not there: how they are written, and how a damaged one is told."""

from __future__ import annotations

import io
import lzma
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from r3mem.errors import InputError
from r3mem.plain_data.whole_file import replacing

#: What training goes on from; a checkpoint saved with ``save_weights_only`` has less.
TRAINING_STATE = ("state_dict", "global_step", "loops", "optimizer_states", "lr_schedulers")
#: What zipfile raises for damaged files: a flipped bit may call a part encrypted, or compressed in some way.
DAMAGE = (
    zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError, KeyError, IndexError, OverflowError, struct.error,
    zlib.error, lzma.LZMAError,
)  # fmt: skip
ADVICE = "--ckpt_path latest takes the latest whole checkpoint of the run"


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place, down to the disk, and renames it; reads only what is whole.

    Lightning's own writes to the system's temporary folder and moves the file. Where that is another file system, as it
    is on most clusters, the move is a copy onto the checkpoint before: a process that is killed meanwhile, or a full
    disk, leaves neither.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any = None) -> None:
        """Write or replace a file. Places that are no local files ("s3://...") are left to Lightning.

        Raises:
            InputError: The disk refuses; says what is still there.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # Serialised first: what the disk refuses is then an error of the operating system's, not one of torch's.
        serialised, path = io.BytesIO(), Path(path)
        torch.save(checkpoint, serialised)
        try:
            with replacing(path) as written, written.open("wb") as file:
                file.write(serialised.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except InputError as error:
            there = sorted(other.name for other in path.parent.glob("*.ckpt"))
            kept = f"still there: {', '.join(there)}; {ADVICE}" if there else "no checkpoint is there yet"
            raise InputError(f"checkpoint {error}; {kept}") from error

    def load_checkpoint(self, path: _PATH, *options: Any, **named: Any) -> dict[str, Any]:
        """Read a file; options are those of Lightning's, which differ from version to version.

        Raises:
            InputError: The file is damaged.
        """
        if "://" in str(path) or not Path(path).is_file():
            return super().load_checkpoint(path, *options, **named)
        check_whole(Path(path))
        try:
            return super().load_checkpoint(path, *options, **named)
        except DAMAGE as error:
            raise _unreadable(Path(path), error) from error


def check_whole(path: Path) -> None:
    """Read a file through and compare every part with its checksum.

    Raises:
        InputError: It is truncated, or holds other bytes than were written.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
    except DAMAGE as error:
        raise InputError(f"checkpoint {path} is not whole ({error}), it may be truncated: {ADVICE}") from error
    if damaged is not None:
        raise InputError(f"checkpoint {path} is damaged ({damaged} does not match its checksum): {ADVICE}")


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"checkpoint {path} cannot be read ({' '.join(str(error).split())[:120]}): {ADVICE}")


def step_of(path: Path, needed: Iterable[str] = TRAINING_STATE, weights_only: bool = True) -> int:
    """The optimiser step at which a checkpoint was saved; arguments and errors as of :func:`read_whole`."""
    return int(read_whole(path, needed, weights_only)["global_step"])


def read_whole(path: Path, needed: Iterable[str] = TRAINING_STATE, weights_only: bool = True) -> dict[str, Any]:
    """What a checkpoint holds, on the CPU, memory-mapped.

    Args:
        path: The file.
        needed: Names that it must hold.
        weights_only: Refuse to build anything but tensors and plain values, see ``torch.load``.

    Raises:
        InputError: The file is damaged, or lacks what is needed.
    """
    check_whole(path)
    try:
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=weights_only)
    except (pickle.UnpicklingError, AttributeError, TypeError, *DAMAGE) as error:
        raise _unreadable(path, error) from error
    missing = [name for name in needed if name not in saved] if isinstance(saved, dict) else list(needed)
    if missing:
        raise InputError(f"checkpoint {path} lacks {', '.join(missing)}: take one that a run saved whole; {ADVICE}")
    found: dict[str, Any] = saved
    return found
