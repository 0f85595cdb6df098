"""Policies of updating: what a new entry does to older ones."""

from r3mem.errors.extras import check_installed

# They are asked inside a transaction of the database, and need what it needs.
check_installed("store", "the memory store")

from r3mem.store.updating.base import Updating  # noqa: E402
from r3mem.store.updating.replace import Replace  # noqa: E402
from r3mem.store.updating.supersede import Supersede  # noqa: E402

__all__ = ["Replace", "Supersede", "Updating"]
