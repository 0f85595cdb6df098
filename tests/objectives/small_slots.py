"""A term of somebody else's: nothing of the project knows it."""

from __future__ import annotations

from torch import Tensor

from r3mem.objectives import Need, StepContext, Term


class SmallSlots(Term):
    """Mean square of the virtual tokens, so that they stay small."""

    needs = Need.MEMORY

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """``(sum over slots of the mean square per dimension, slots)``."""
        state = context.state
        return (state.slots_BKD.square().mean(-1) * state.mask_BK).sum(), state.mask_BK.sum()
