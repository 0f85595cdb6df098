"""The control of nothing: a memory that is never read.

Shape legend: B batch, K virtual tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.controls.base import Control
from r3mem.compressors.parts.soft_prompt import soft_prompt
from r3mem.memory import MemoryState, Segments


class NoMemory(Control):
    """Writes slots of zeros and reads none of them: the likelihood is the backbone's own, adapters included.

    The stack still binds the words into the zeros, so that recall works as with any other compressor: words that can
    be recalled and are not read.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
    """

    def slots(self, backbone: Backbone, text: Segments) -> Tensor:
        """See :meth:`Control.slots`."""
        return torch.zeros(*self.slot_mask(text).shape, self.width, device=text.ids_BN.device)

    def read(self, memory: MemoryState) -> Prefix:
        """A prefix without any states."""
        return soft_prompt(memory.slots_BKD[:, :0], memory.mask_BK[:, :0])
