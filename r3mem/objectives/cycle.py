"""There and back through the stack.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

from torch import Tensor

from r3mem.objectives.base import Term
from r3mem.objectives.context import Need, StepContext


class Cycle(Term):
    """Distance of both streams from themselves after recall and retain, recall without residual:
    ``|V_0 - V_0 found by recall|^2 + |retain(recall(V)) - V|^2``."""

    name = "cycle"
    needs = Need.MEMORY | Need.STREAMS

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """``(sum over slots of the mean square per dimension, slots)``."""
        stack, slots_BKD = context.streams.codec.stack, context.streams.slots_BKD
        state, text = context.state, context.text
        memory_BKD = state.slots_BKD[..., : slots_BKD.shape[-1]]
        text_BND, found_BKD = stack.recall(memory_BKD, text.lengths_B, text.ids_BN.shape[1])
        _, again_BKD = stack.retain(text_BND, found_BKD, text.lengths_B)
        error_BK = (found_BKD - slots_BKD).square().mean(-1) + (again_BKD - memory_BKD).square().mean(-1)
        return (error_BK * state.mask_BK).sum(), state.mask_BK.sum()
