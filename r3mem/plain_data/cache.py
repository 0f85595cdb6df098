"""Where what can be made again is kept: unpacked backbones, tokens."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The user's cache folder for one kind of thing; ``R3MEM_CACHE`` moves all of them.

    Args:
        kind: Name of the folder, such as ``tokens``.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "r3mem"
    return Path(os.environ.get("R3MEM_CACHE", default)) / kind
