"""What the rows of streams remember: passed on from segment to segment, and from batch to batch.

Shape legend: B rows, T segments of a batch.

::

    batch 1                          batch 2
    segment 0 -> state -> segment 1  -> state, cut from the graph -> segment 0 ...
                                        emptied in rows that begin anew
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from r3mem.memory import MemoryState, Segments
from r3mem.model.segment_model import SegmentModel

#: Number of a segment, its text, what came before it: gives the segment's own memory.
Retain = Callable[[int, Segments, MemoryState | None], MemoryState]


def through_segments(
    model: SegmentModel, texts: Sequence[Segments], retain: Retain, state: MemoryState | None = None,
    cut_every: int | None = None,
) -> MemoryState | None:  # fmt: skip
    """Take rows through their segments, each retained with what is remembered of those before it.

    Args:
        model: Says what is remembered after a segment.
        texts: The T segments of all rows; where one is empty, its row goes on remembering what it did.
        retain: Retains one segment.
        state: What came before the first; None for nothing.
        cut_every: The memory is cut from the graph after so many segments (truncated back-propagation); None cuts
            nowhere.

    Returns:
        What is remembered after the last; None where nothing ever was.
    """
    for t, text in enumerate(texts):
        if cut_every is not None and t and t % cut_every == 0 and state is not None:
            state = state.detach()
        after = model.next_state(state, retain(t, text, state))
        state = after if state is None else after.filled_from(state)
    return state


class StateThread:
    """What the rows of a stream remember between two batches.

    Args:
        model: Its ratio in force is that of the states which are carried on.

    Attributes:
        state: The memory after the last batch, cut from the graph; None where nothing is carried.
    """

    def __init__(self, model: SegmentModel) -> None:
        self.model = model
        self.state: MemoryState | None = None

    def begin(self, reset_B: Tensor | None, always: bool = False) -> MemoryState | None:
        """The memory that a batch goes on from, empty in rows that begin anew; None where no row goes on.

        Args:
            reset_B: True in rows that begin anew; None where all do.
            always: Whether an empty memory is given instead of none, so that every process reads one.
        """
        carried = self.state
        if carried is None or reset_B is None or len(carried.lengths_B) != len(reset_B):
            return None
        if carried.ratio != self.model.ratio:
            return None  # Slots of another ratio stand for other tokens.
        if bool(reset_B.all()) and not always:
            return None
        return carried.forget(reset_B)

    def keep(self, state: MemoryState | None) -> None:
        """Carry the memory after a batch; a batch that gives none leaves what is carried as it is."""
        if state is not None:
            self.state = state.detach()

    def drop(self) -> None:
        """Carry nothing."""
        self.state = None
