"""Files that are whole or as they were before. Nothing here needs torch: reports and stores write files too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from r3mem.errors import InputError
from r3mem.plain_data.scratch_folder import scratch_beside


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
        with scratch_beside(path) as scratch:
            written = scratch / "written"
            yield written
            written.replace(path)
