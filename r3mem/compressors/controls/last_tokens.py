"""The control of raw text: as many of a segment's last tokens as a memory has slots.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.compressors.controls.base import Control
from r3mem.memory import Segments


class LastTokens(Control):
    """Slots are the input embeddings of the last K tokens of a segment, read as if those tokens stood there.

    A memory that is not better than this has lost more by compressing than by forgetting. With an exact share of 0 it
    is the same, to the last digit of its precision, as a text that begins with those tokens.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token: of n tokens, the last ``ceil(n / ratio)`` are kept.
    """

    def slots(self, backbone: Backbone, text: Segments) -> Tensor:
        """See :meth:`Control.slots`."""
        mask_BK = self.slot_mask(text)
        first_B1 = (text.lengths_B - mask_BK.sum(1))[:, None]
        place_BK = (first_B1 + torch.arange(mask_BK.shape[1], device=mask_BK.device)) * mask_BK
        return backbone.embed(text.ids_BN.gather(1, place_BK) * mask_BK).float()
