"""R^3Mem: memory retention and retrieval by reversible compression (arXiv 2502.15957)."""

from r3mem.backbone import Backbone
from r3mem.errors import ConfigError, FingerprintError, InputError, R3MemError, RecallError
from r3mem.memory import Memory, MemoryState, Segments
from r3mem.model import R3Mem
from r3mem.tree_memory import TreeMemory

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
