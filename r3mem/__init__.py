"""R^3Mem: memory retention and retrieval by reversible compression (arXiv 2502.15957)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r3mem.plain_data.lazy_names import lazy_names

if TYPE_CHECKING:
    from r3mem.backbone import Backbone
    from r3mem.errors import ConfigError, FingerprintError, InputError, R3MemError, RecallError
    from r3mem.memory import Memory, MemoryState, Segments
    from r3mem.memory.tree_memory import TreeMemory
    from r3mem.model import R3Mem

__all__ = [
    "Backbone",
    "ConfigError",
    "FingerprintError",
    "InputError",
    "Memory",
    "MemoryState",
    "R3Mem",
    "R3MemError",
    "RecallError",
    "Segments",
    "TreeMemory",
]
__version__ = "0.1.0"

# Where each name is. A module is imported when one of its names is first used (PEP 562): torch and transformers take
# seconds, which the package's name alone, its version or an error's class need not cost.
_PLACES = {
    "backbone": ("Backbone",),
    "errors": ("ConfigError", "FingerprintError", "InputError", "R3MemError", "RecallError"),
    "memory": ("Memory", "MemoryState", "Segments", "TreeMemory"),
    "model": ("R3Mem",),
}
# Packages that a user reaches by an attribute: `r3mem.compressors.VirtualTokens`.
_MODULES = (*_PLACES, "compressors", "hierarchy", "metrics", "recall", "reversible", "search", "serve", "store")
__getattr__, __dir__ = lazy_names(__name__, _PLACES, _MODULES)
