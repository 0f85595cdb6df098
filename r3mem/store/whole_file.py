"""A file that appears whole or not at all; the same for tensors needs torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from r3mem.errors import InputError
from r3mem.plain_data.scratch_folder import scratch_beside


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a place to write at; in the end that file is at the path, or what was there stays.

    Args:
        path: Where; its folder must be there.

    Raises:
        InputError: The disk refuses.
    """
    try:
        with scratch_beside(path) as folder:
            scratch = folder / "written"
            yield scratch
            with scratch.open("rb+") as file:
                os.fsync(file.fileno())
            scratch.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): give another place") from error
