"""What is kept of a text: plain typed data, its precision in a file, trees of it."""

from r3mem.memory.memory import Memory, side_by_side
from r3mem.memory.states import MemoryState, Segments, slots_needed
from r3mem.memory.tree_memory import TreeMemory

__all__ = [
    "Memory",
    "MemoryState",
    "Segments",
    "TreeMemory",
    "side_by_side",
    "slots_needed",
]
