"""The seam: consolidation."""

from __future__ import annotations

from abc import ABC


class Consolidation(ABC):  # noqa: B024
    """What every way has in common."""
