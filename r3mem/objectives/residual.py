"""What the stack leaves in the text stream.

Shape legend: B batch, N text tokens, D width.
"""

from __future__ import annotations

from torch import Tensor

from r3mem.objectives.base import Term
from r3mem.objectives.context import Need, StepContext


class Residual(Term):
    """Mean square of what the stack leaves in the text stream: words that recall from the memory alone lacks."""

    name = "residual"
    needs = Need.STREAMS

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """``(sum over tokens of the mean square per dimension, tokens)``."""
        mask_BN = context.text.mask_BN
        return (context.streams.residual_BND.square().mean(-1) * mask_BN).sum(), mask_BN.sum()
