"""Tensors to a ``.safetensors`` file with the permissions that the user's files have; safetensors gives its own."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(tensors: dict[str, Tensor], path: Path, about: dict[str, str]) -> None:
    """Write a new file, down to the disk.

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
