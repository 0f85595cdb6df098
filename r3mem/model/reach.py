"""Which virtual tokens of a memory are read in front of a prompt.

| reach | what is read |
|---|---|
| ``all`` | every segment's, within the budget; see below |
| ``state`` | what the next segment would read: the last segment's, or all up to ``state_slots`` (accumulating) |
| ``records`` | every segment's, side by side; a prompt that does not fit behind them is refused |

The budget of ``all`` is the room that prompt and new tokens leave in the model's window, and for a compressor that
accumulates no more than its state holds (``max_slots``). Where not all fits, a compressor that accumulates reads its
state, in which slots of all segments competed, cut to the room if it can (`Compressor.fewer`); any other reads the
newest segments that fit; of a tree the finest level that fits is read. A warning says how many are read.
"""

from __future__ import annotations

from r3mem.errors import InputError
from r3mem.errors.caller_warnings import warn_caller
from r3mem.memory import Memory, MemoryState
from r3mem.memory.tree_memory import TreeMemory
from r3mem.model.segment_model import SegmentModel

REACHES = ("all", "state", "records")


def positions_read(model: SegmentModel, state: MemoryState) -> int:
    """Positions of the model's window that stand in front of a text behind a memory.

    Args:
        model: The model that reads.
        state: What it reads.
    """
    return int(model.compressor.read(state).start_B.max())


def level_read(model: SegmentModel, memory: Memory | TreeMemory, room: int) -> Memory:
    """The memory itself; of a tree its finest level that fits, else the coarsest.

    Args:
        model: The model that reads.
        memory: What it is to read.
        room: Positions that prompt and new tokens leave.

    Raises:
        InputError: Neither a memory nor a tree's, or a tree's that holds nothing.
    """
    if isinstance(memory, Memory):
        return memory
    if not isinstance(memory, TreeMemory):
        raise InputError(
            f"a memory is a Memory or a TreeMemory, not {type(memory).__name__}: retain, retain_tree and Memory.load "
            "give one"
        )
    if not memory.levels:
        raise InputError("this memory of a tree has no levels: nothing was retained, retain_tree gives one that holds")
    fitting = (level for level in reversed(memory.levels) if _whole(model, level, room) is not None)
    return next(fitting, memory.levels[0])


def state_read(model: SegmentModel, memory: Memory, reach: str, room: int) -> MemoryState:
    """What is read of a memory; the model is at the memory's ratio.

    Args:
        model: The model that reads.
        memory: What it is to read.
        reach: One of `REACHES`.
        room: Positions that prompt and new tokens leave.

    Raises:
        FingerprintError: The memory was made by another backbone, stack or compressor.
    """
    if reach != "all":
        return model.state(memory, reach)
    accumulates = model.compressor.accumulates
    state = _whole(model, memory, room)
    if state is not None:
        return state
    if accumulates:
        state = model.state(memory)
        if positions_read(model, state) > room:
            state = model.compressor.fewer(model.backbone, state, room) if room > 0 else None
        if state is not None:
            _tell(model, memory, state, room, "those of all segments that were worth most")
            return state

    def newest(count: int) -> MemoryState:
        return model.state(memory.part(-count, count), "state" if accumulates else "records")

    # The most of the newest records that fit: halved until the border is found.
    fewest, most = 1, len(memory.digests)
    while most - fewest > 1:
        middle = (fewest + most) // 2
        fewest, most = (middle, most) if positions_read(model, newest(middle)) <= room else (fewest, middle)
    state = newest(fewest)
    # Where not even one fits, the prompt is refused.
    if positions_read(model, state) <= room:
        _tell(model, memory, state, room, "those of the newest segments")
    return state


def _whole(model: SegmentModel, memory: Memory, room: int) -> MemoryState | None:
    """What is read of a memory where that is all of it; None where it does not fit."""
    with model.at_ratio_of(memory):
        held = model.compressor.state_slots
        if model.compressor.accumulates and held is not None and memory.n_slots > held:
            return None
        state = model.state(memory, "state" if model.compressor.accumulates else "records")
        n_read = positions_read(model, state)
        if n_read > room:
            return None
        # A state may hold less than it is set to: a window of few positions has room for no more.
        if not model.compressor.accumulates or int(state.mask_BK.sum()) == memory.n_slots:
            return state
        return state if positions_read(model, model.state(memory, "records")) <= n_read else None


def _tell(model: SegmentModel, memory: Memory, state: MemoryState, room: int, which: str) -> None:
    held = model.compressor.state_slots
    warn_caller(
        f"this memory holds {memory.n_slots} virtual tokens, and {int(state.mask_BK.sum())} are read, {which}: prompt "
        f"and new tokens leave {room} positions of {model.backbone.max_positions}"
        f"{'' if held is None else f', a state holds {held}'}. A higher ratio holds more; slots= chooses some"
    )
