"""What one segment's forward pass gives.

Shape legend: B batch, N text tokens, K virtual tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from r3mem.backbone.next_tokens import Scores, logits_of
from r3mem.memory import MemoryState
from r3mem.plain_data.by_content import ByContent


@dataclass(eq=False, repr=False)
class Step(ByContent):
    """One segment's forward pass.

    Attributes:
        state: The new memory ``V_S``.
        scores: Next-token logits ``BNV`` at the segment given the memory before it, or what makes them, or None.
        slots_BKD: The initial memory stream ``V_0``, off the exact share, as wide as the stack.
        text_BND: The text stream ``U_0``.
        residual_BND: What is left of the text stream after the stack.
    """

    state: MemoryState
    scores: Scores | None
    slots_BKD: Tensor
    text_BND: Tensor
    residual_BND: Tensor

    @property
    def logits_BNV(self) -> Tensor | None:
        """The logits; made when they are first read."""
        return logits_of(self.scores)
