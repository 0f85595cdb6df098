"""The control of noise: a memory that says nothing, as large as one that could.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.compressors.controls.base import Control
from r3mem.memory import Segments, slots_needed


class RandomMemory(Control):
    """Slots of a normal distribution, drawn from the seed and the text itself: the same text has the same memory.

    What reading it gains over `NoMemory` comes from having positions to attend to, not from anything remembered.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        spread: Standard deviation of the slots, in those of the input embeddings; before calibration absolute.
        seed: Another seed gives every text another memory.
    """

    unit: Tensor

    def __init__(self, width: int, ratio: int = 16, spread: float = 1.0, seed: int = 0) -> None:
        super().__init__(width, ratio)
        self.spread, self.seed = spread, seed
        self.register_buffer("unit", torch.ones(()))

    def slots(self, backbone: Backbone, text: Segments) -> Tensor:
        """See :meth:`Control.slots`."""
        n_batch, n_text = text.ids_BN.shape
        slots_BKD = torch.zeros(n_batch, slots_needed(n_text, self.ratio), self.width)
        for b, length in enumerate(text.lengths_B.tolist()):
            content = repr((self.seed, text.ids_BN[b, :length].tolist())).encode()
            # Kept to 63 bits: generators take no more.
            place = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1
            n_slots = slots_needed(length, self.ratio)
            slots_BKD[b, :n_slots] = torch.randn(n_slots, self.width, generator=torch.Generator().manual_seed(place))
        return slots_BKD.to(text.ids_BN.device) * self.spread * self.unit

    @torch.no_grad()
    def calibrate(self, backbone: Backbone, text: Segments, finish: Callable[[Tensor], Tensor]) -> float:
        """Take the spread of the input embeddings as the unit."""
        self.unit.copy_(backbone.embedding_VD.float().std())
        return 1.0
