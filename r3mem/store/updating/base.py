"""The seam: updating."""

from __future__ import annotations

from abc import ABC


class Updating(ABC):  # noqa: B024
    """What every way has in common."""
