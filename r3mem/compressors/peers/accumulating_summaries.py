"""AutoCompressors: every segment's summary is kept and read by all that follow (Chevalier et al., 2305.14788).

Shape legend: B batch, K virtual tokens, S learned vectors, D width.

Three segments; ``s`` are learned vectors, ``M`` the model's output there::

    [x_1 ; s]               -> M_1
    [M_1 ; x_2 ; s]         -> M_2
    [M_1 ; M_2 ; x_3 ; s]   -> M_3
"""

from __future__ import annotations

from r3mem.backbone import Backbone
from r3mem.compressors.base import Written
from r3mem.compressors.parts.accumulation import AccumulatingSlots
from r3mem.errors.renamed import renamed_arguments
from r3mem.memory import MemoryState, Segments


@renamed_arguments(most="max_slots")
class AccumulatingSummaries(AccumulatingSlots):
    """Summary vectors of each segment, read together with those of all segments before, in order (2305.14788).

    The learned vectors start as the embedding of the end of a text. Gradients are stopped after some segments by
    ``bptt_segments`` of the training module; the paper has 2.

    Where this differs from the paper:

    - The number of summary vectors follows the segment, ``K = ceil(N / ratio)``; the paper has 50 for any length.
    - A state is finite: beyond ``max_slots`` slots the oldest are dropped.
    - Positions run on from the summaries through the segment to the learned vectors, as the paper has it with rotary
      positions; where a backbone has absolute positions, the paper gives summaries none.
    - Segments are as long as the data module cuts them; the paper draws their lengths, as a range of
      ``segment_tokens`` does.
    - In a tree, a segment reads the memory of the one segment that it refines.
    - Between write and read stands the stack. With an exact share, its part of each slot carries words.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        slots: S, learned vectors; the longest segment needs its number of tokens divided by the ratio.
        max_slots: Slots that a state holds at most.
    """

    def __init__(self, width: int, ratio: int = 16, slots: int = 128, max_slots: int = 512) -> None:
        super().__init__(width, ratio, slots, max_slots)

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`."""
        prefix = None if memory is None else self.read(memory)
        return self.write(backbone, text, prefix, self.initial(text), logits)
