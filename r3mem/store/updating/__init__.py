"""Policies of updating: what a new entry does to older ones."""

from r3mem.store.updating.base import Updating
from r3mem.store.updating.replace import Replace
from r3mem.store.updating.supersede import Supersede

__all__ = ["Replace", "Supersede", "Updating"]
