"""Which virtual tokens of a memory are read in front of a prompt.

| reach | what is read |
|---|---|
| ``all`` | every segment's, within the budget; see below |
| ``state`` | what the next segment would read: the last segment's, or all up to ``state_slots`` (accumulating) |
| ``records`` | every segment's, side by side; a prompt that does not fit behind them is refused |

The budget of ``all`` is the room that prompt and new tokens leave in the model's window, and for a compressor that
accumulates no more than its state holds (``max_slots``). Where not all fits, a compressor that accumulates reads its
state, in which slots of all segments competed; any other reads the newest segments that fit; of a tree the finest level
that fits is read. A warning says how many are read.
"""

from __future__ import annotations

import warnings

from r3mem.errors import ConfigError, InputError
from r3mem.memory import Memory, MemoryState, slots_needed
from r3mem.segment_model import SegmentModel
from r3mem.tree_memory import TreeMemory

REACHES = ("all", "state", "records")


def level_read(model: SegmentModel, memory: Memory | TreeMemory, room: int) -> Memory:
    """The memory itself; of a tree its finest level that fits, else the coarsest.

    Args:
        model: The model that reads.
        memory: What it is to read.
        room: Positions that prompt and new tokens leave.

    Raises:
        InputError: Neither a memory nor a tree's.
    """
    if isinstance(memory, Memory):
        return memory
    if not isinstance(memory, TreeMemory):
        raise InputError(f"a memory is a Memory or a TreeMemory, not {type(memory).__name__}: retain gives one")
    budget = _budget(model, room)
    return next((level for level in reversed(memory.levels) if level.n_slots <= budget), memory.levels[0])


def state_read(model: SegmentModel, memory: Memory, reach: str, room: int) -> MemoryState:
    """What is read of a memory; the model is at the memory's ratio.

    Args:
        model: The model that reads.
        memory: What it is to read.
        reach: One of `REACHES`.
        room: Positions that prompt and new tokens leave.

    Raises:
        ConfigError: Another reach.
        FingerprintError: The memory was made by another backbone, stack or compressor.
    """
    if reach not in REACHES:
        raise ConfigError(f"reach is 'all', 'state' or 'records', not {reach!r}")
    if reach != "all":
        return model.state(memory, reach)
    accumulates, budget = model.compressor.accumulates, _budget(model, room)
    if memory.n_slots > budget:
        how = "a state of those that were worth most" if accumulates else "those of the newest segments"
        warnings.warn(
            f"this memory holds {memory.n_slots} virtual tokens, and {budget} can be read at once (window "
            f"{model.backbone.max_positions}, room {room}, state {model.compressor.state_slots}): {how} is read. Give "
            "slots= to choose some, reach='records' for all, or a higher ratio",
            stacklevel=4,
        )
    if accumulates:
        return model.state(memory)
    newest, taken = len(memory.digests) - 1, 0
    for t in reversed(range(len(memory.digests))):
        taken += slots_needed(int(memory.lengths_T[t]), memory.ratio)
        if taken > budget:
            break
        newest = t
    return model.state(memory.part(newest, len(memory.digests) - newest), "records")


def _budget(model: SegmentModel, room: int) -> int:
    """Slots that are read at most."""
    held = model.compressor.state_slots
    return room if held is None else min(room, held)
