r"""Activation Beacon: keys and values of tokens among the text replace those of the text (Zhang et al., 2401.03462).

Shape legend: B batch, K virtual tokens, D width.

A segment of 5 tokens at ratio 2, ``b`` beacons, ``M`` those of all segments before; rows are queries, columns keys::

           M   x0  x1  b0  x2  x3  b1  x4  b2
    x1     #   #   #   .   .   .   .   .   .       # seen
    b0     #   #   #   #   .   .   .   .   .
    x2     #   #   #   #   #   .   .   .   .
    b2     #   #   #   #   #   #   #   #   #

    state  M b0 b1 b2                              the text's keys and values are dropped
"""

from __future__ import annotations

from r3mem.backbone import Backbone
from r3mem.compressors.base import Written
from r3mem.compressors.parts.accumulation import AccumulatingSlots
from r3mem.compressors.parts.key_value_slots import KeyValueSlots
from r3mem.errors.renamed import renamed_arguments
from r3mem.memory import MemoryState, Segments


@renamed_arguments(most="max_slots")
class ActivationBeacon(AccumulatingSlots, KeyValueSlots):
    """A beacon behind each ``ratio`` tokens; the beacons of all segments are kept and read (2401.03462).

    The paper draws a ratio at every step; so does the training module with ``ratios``.

    Where this differs from the paper:

    - The paper gives beacon tokens query, key and value projections of their own and leaves the model as it was for all
      other tokens. Here the backbone's adapters are trained, and serve text and beacons alike; a text without any
      memory is therefore read by the adapted model too.
    - A state is finite: beyond ``max_slots`` beacons the oldest are dropped.
    - Segments are as long as the data module cuts them; a last beacon stands for the tokens that are left over.
    - A text that is only read, such as a query or a prompt, has no beacons of its own.
    - In a tree, a segment reads the memory of the one segment that it refines.
    - Between write and read stands the stack. With an exact share, its part of each slot carries words.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        max_slots: Slots that a state holds at most.
    """

    def __init__(self, width: int, ratio: int = 16, max_slots: int = 512) -> None:
        super().__init__(width, ratio, None, max_slots)

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`."""
        prefix = None if memory is None else self.read(memory)
        return self.write(backbone, text, prefix, self.initial(text), logits, interleaved=True)
