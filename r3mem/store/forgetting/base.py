"""The seam: forgetting."""

from __future__ import annotations

from abc import ABC


class Forgetting(ABC):  # noqa: B024
    """What every way has in common."""
