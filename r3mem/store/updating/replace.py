"""The default."""

from __future__ import annotations

from r3mem.store.updating.base import Updating


class Replace(Updating):
    """The default."""
