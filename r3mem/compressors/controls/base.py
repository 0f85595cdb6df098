"""What controls share: memories that no model writes, against which one that is written has to show its worth.

The mean as a control is ``MeanPool``.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.base import Compressor, Written
from r3mem.compressors.parts.soft_prompt import soft_prompt
from r3mem.memory import MemoryState, Segments


class Control(Compressor):
    """Slots that are read as an ordinary soft prompt; what is written depends on the segment alone.

    The words that a stack binds into slots are in the way here as anywhere: compare with an exact share of 0.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
    """

    def __init__(self, width: int, ratio: int = 16) -> None:
        super().__init__(ratio)
        self.width = width

    @property
    def recurrent(self) -> bool:
        """See :attr:`Compressor.recurrent`."""
        return False

    @abstractmethod
    def slots(self, backbone: Backbone, text: Segments) -> Tensor:
        """The slots of a text, ``BKD``, float32; those outside ``slot_mask`` are set to zero by the caller."""

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`."""
        slots_BKD = self.slots(backbone, text) * self.slot_mask(text)[..., None]
        if not logits:
            return Written(slots_BKD, None)
        return Written(slots_BKD, backbone(text, None if memory is None else self.read(memory)).scores)

    def read(self, memory: MemoryState) -> Prefix:
        """See :meth:`Compressor.read`."""
        return soft_prompt(memory.slots_BKD, memory.mask_BK)
