"""The seam: indexing."""

from __future__ import annotations

from abc import ABC


class Indexing(ABC):  # noqa: B024
    """What every way has in common."""
