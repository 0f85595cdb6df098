r"""What compressors share that append learned vectors to a text and keep the model's output there.

Shape legend: B batch, N text tokens, K virtual tokens, S learned vectors, P prefix states, D width.

One pass, for a row with k memory tokens in front, n text tokens and w write slots; rows are queries, columns keys::

               mem  text  write
    mem         \    .     .        \ causal inside
    text        #    \     .        # everything
    write       #    #     \
    position   0..k-1   k..k+n-1   k+n..k+n+w-1
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from r3mem.backbone import Backbone
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.base import Compressor, Written
from r3mem.compressors.parts.learned_slots import check_learned, first_slots
from r3mem.compressors.parts.soft_prompt import soft_prompt
from r3mem.memory import MemoryState, Segments


class AppendedSlots(Compressor):
    """Slots are the model's output, behind its final norm, at vectors appended to the text; no map before or after.

    The published systems have a fixed number of memory tokens. Here the number follows the text, ``K = ceil(N /
    ratio)``, as the seam demands: a segment uses the first K of the learned vectors.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        slots: S, learned vectors; the longest segment needs its number of tokens divided by the ratio.
    """

    def __init__(self, width: int, ratio: int = 16, slots: int = 128) -> None:
        super().__init__(ratio)
        check_learned(slots)
        self.width, self.slots = width, slots
        self.initial_SD = nn.Parameter(torch.randn(slots, width))

    def read(self, memory: MemoryState) -> Prefix:
        """See :meth:`Compressor.read`."""
        return soft_prompt(memory.slots_BKD, memory.mask_BK)

    def initial(self, text: Segments) -> Tensor:
        """The learned vectors that a text uses, ``BKD``.

        Raises:
            InputError: The text needs more than there are.
        """
        return first_slots(self.initial_SD, self.slot_mask(text), self.ratio)

    def write(
        self, backbone: Backbone, text: Segments, prefix: Prefix | None, start_BKD: Tensor, logits: bool
    ) -> Written:
        """Run ``[prefix ; text ; start]`` and take the output behind the text.

        Args:
            backbone: The language model.
            text: The segments.
            prefix: What is read in front of them.
            start_BKD: Input embeddings of the write slots.
            logits: Whether the likelihood is needed.
        """
        mask_BK = self.slot_mask(text)
        places_BK = text.lengths_B[:, None] + torch.arange(mask_BK.shape[1], device=mask_BK.device)
        out = backbone(text, prefix, start_BKD, places_BK, mask_BK, capture=backbone.output, logits=logits)
        assert out.slots_BKD is not None
        return Written(out.slots_BKD.float() * mask_BK[..., None], out.scores)

    @torch.no_grad()
    def calibrate(self, backbone: Backbone, text: Segments, finish: Callable[[Tensor], Tensor]) -> float:
        """Give the learned vectors, drawn from a normal distribution, the spread of the input embeddings."""
        self.initial_SD.mul_(backbone.embedding_VD.float().std() / self.initial_SD.std())
        return 1.0
