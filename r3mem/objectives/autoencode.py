"""Autoencoding: the backbone spells a segment out."""

from __future__ import annotations

from torch import Tensor

from r3mem.objectives.base import Term
from r3mem.objectives.context import Need, StepContext
from r3mem.objectives.likelihood import spelling_nll


class Autoencode(Term):
    """Negative log-likelihood of a segment given its own memory: the backbone spells it out (2307.06945)."""

    name = "autoencode"
    needs = Need.SPELLING

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """``(sum, count)`` in nats, over all tokens."""
        return spelling_nll(context.spelling, context.text)
