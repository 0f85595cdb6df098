r"""Virtual memory tokens among the text, read of all segments side by side, through all layers of the backbone.

Shape legend: B batch, N text tokens, K virtual tokens, P prefix, D width.

A segment of 5 tokens at ratio 2, ``s`` its slots; rows are queries, columns keys::

          x0  x1  s0  x2  x3  s1  x4  s2
    x1    #   #   .   .   .   .   .   .       # seen
    s0    #   #   #   .   .   .   .   .       starts as x0 plus a learned vector
    x2    #   #   #   #   .   .   .   .
    s2    #   #   #   #   #   #   #   #       starts as x4 plus that vector

Two segments ``m``, ``n`` of two and three slots, and a question ``q`` that reads them::

                m0  m1  n0  n1  n2  q0  q1
    position    0   1   0   1   2   3   4
    m1          #   #   .   .   .   .   .
    n1          .   .   #   #   .   .   .
    q0          #   #   #   #   #   #   .
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from r3mem.backbone import Backbone
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.base import Written
from r3mem.compressors.parts.accumulation import Accumulates, check_max_slots
from r3mem.compressors.parts.soft_prompt import soft_prompt
from r3mem.errors.renamed import renamed_arguments
from r3mem.memory import MemoryState, Segments


@renamed_arguments(most="max_slots")
class InterleavedTokens(Accumulates):
    """A slot behind each ``ratio`` tokens, which starts as the first of them; segments are read side by side.

    Where a slot stands is what its attention finds nearest, so that a model soon learns to gather its own tokens there
    (the place is that of Activation Beacon, 2401.03462, whose memory is keys and values). As it looks like the first of
    them once more, what a model knows of looking up what came after a token is at work from the first step on: it tells
    their order, where slots that start alike soon hold which tokens there were, and not in which order.

    A slot is the model's output, behind its final norm, and is read at the input, with no map before or after: a model
    that is trained whole finds what it is asked for in it from the first hundred steps on, where it may miss it for a
    thousand behind maps.

    Each segment is written by itself and read as if it were the only one: the same places, and no segment sees another
    (as the windows of Parallel Context Windows, 2212.10947, are read). So a history of any number of segments stays
    within the distances of one, which a model was trained on. The price: a reader is not told which segment came first.
    What is kept grows with the history, as does the cost of reading it, until ``max_slots``.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        max_slots: Slots that a state holds at most; beyond it the oldest are dropped.
    """

    def __init__(self, width: int, ratio: int = 16, max_slots: int = 512) -> None:
        super().__init__(ratio)
        check_max_slots(max_slots)
        self.width, self.max_slots = width, max_slots
        self.write_D = nn.Parameter(torch.zeros(width))

    @property
    def recurrent(self) -> bool:
        """See :attr:`Compressor.recurrent`: a segment is written by itself."""
        return False

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`; the likelihood is a pass of its own, without slots among the text."""
        mask_BK, after_BK = self.slot_mask(text), self.slots_after(text)
        first_BK = text.ids_BN[:, :: self.ratio]
        start_BKD = backbone.embed(torch.where(mask_BK, first_BK, 0)) + self.write_D
        out = backbone(
            text, None, start_BKD, slot_mask_BK=mask_BK, capture=backbone.output, logits=False, slots_after_BK=after_BK
        )
        assert out.slots_BKD is not None
        written = Written(out.slots_BKD.float() * mask_BK[..., None], None)
        if logits:
            written.scores = backbone(text, None if memory is None else self.read(memory)).scores
        return written

    def read(self, memory: MemoryState) -> Prefix:
        """See :meth:`Compressor.read`; segments do not see each other, and the text stands behind the longest."""
        mask_BK = memory.mask_BK
        positions_BK = place_in_segment(memory)
        return replace(
            soft_prompt(memory.slots_BKD, mask_BK),
            positions_BP=positions_BK,
            start_B=(positions_BK + 1).masked_fill(~mask_BK, 0).amax(1),
            segment_BP=memory.segment_BK,
        )


def place_in_segment(memory: MemoryState) -> Tensor:
    """How many slots of its own segment stand in front of each slot, ``long BK``."""
    slot_BK = torch.arange(memory.slots_BKD.shape[1], device=memory.slots_BKD.device).expand(memory.mask_BK.shape)
    if memory.segment_BK is None:
        return slot_BK
    begins_BK = pad(memory.segment_BK, (1, 0), value=-1).diff(dim=1) != 0
    return slot_BK - torch.where(begins_BK, slot_BK, 0).cummax(1).values
