r"""Virtual memory tokens among the text, kept of all segments, through all layers of the backbone.

Shape legend: B batch, N text tokens, K virtual tokens, D width.

A segment of 5 tokens at ratio 2, ``s`` slots, ``M`` those of all segments before; rows are queries, columns keys::

           M   x0  x1  s0  x2  x3  s1  x4  s2
    x1     #   #   #   .   .   .   .   .   .       # seen
    s0     #   #   #   #   .   .   .   .   .       starts as x1 plus a learned vector
    x2     #   #   #   #   #   .   .   .   .
    s2     #   #   #   #   #   #   #   #   #       starts as x4 plus that vector
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from r3mem.backbone import Backbone
from r3mem.compressors.accumulation import Accumulates, check_most
from r3mem.compressors.hidden_state import HiddenStateCompressor
from r3mem.memory import MemoryState, Segments
from r3mem.prefix import Prefix


class InterleavedTokens(Accumulates, HiddenStateCompressor):
    """A slot behind each ``ratio`` tokens, which starts as the last of them; the slots of all segments are read.

    Where a slot stands is what its attention finds nearest, so that a model soon learns to gather its own tokens there
    (the place is that of Activation Beacon, 2401.03462, whose memory is keys and values). By default slots pass through
    all layers and are read by all of them: a model that is trained whole finds what it is asked for in them, and misses
    it in means of states. What is kept grows with the history, as does the cost of reading it, until ``most``.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        write_layer: Decoder layer whose input states become the slots; the number of layers is the last one's output.
        read_layer: Decoder layer at which a memory enters; 0 is the input embeddings.
        most: Slots that a state holds at most; beyond it the oldest are dropped.
    """

    def __init__(
        self, width: int, ratio: int = 16, write_layer: int = 30, read_layer: int = 0, most: int = 512
    ) -> None:
        super().__init__(width, ratio, write_layer, read_layer)
        check_most(most)
        self.most = most
        self.write_D = nn.Parameter(torch.zeros(width))

    def states(
        self, backbone: Backbone, text: Segments, prefix: Prefix | None, logits: bool
    ) -> tuple[Tensor, Tensor | None]:
        """See :meth:`HiddenStateCompressor.states`."""
        mask_BK, after_BK = self.slot_mask(text), self.slots_after(text)
        last_BK = text.ids_BN.gather(1, (after_BK - 1).clamp(min=0))
        start_BKD = backbone.embed(torch.where(mask_BK, last_BK, 0)) + self.write_D
        out = backbone(
            text, prefix, start_BKD, slot_mask_BK=mask_BK, capture=self.write_layer, logits=logits,
            slots_after_BK=after_BK,
        )  # fmt: skip
        assert out.slots_BKD is not None
        return out.slots_BKD.float(), out.logits_BNV

    def positions(self, memory: MemoryState) -> Tensor:
        """One behind the other: a history of many segments stays within the distances that few have."""
        n_batch, n_slots = memory.slots_BKD.shape[:2]
        return torch.arange(1, n_slots + 1, device=memory.slots_BKD.device).expand(n_batch, -1)

    def read(self, memory: MemoryState) -> Prefix:
        """See :meth:`Compressor.read`; the text follows the last slot at once."""
        prefix = super().read(memory)
        return replace(prefix, start_B=memory.mask_BK.sum(1) + memory.mask_BK.any(1))
