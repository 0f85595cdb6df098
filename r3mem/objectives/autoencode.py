"""Autoencoding: the backbone reconstructs a segment."""

from __future__ import annotations

from torch import Tensor

from r3mem.objectives.base import Term
from r3mem.objectives.context import Need, StepContext
from r3mem.objectives.likelihood import reconstruction_nll


class Autoencode(Term):
    """Negative log-likelihood of a segment given its own memory: the backbone reconstructs it (2307.06945)."""

    name = "autoencode"
    needs = Need.RECONSTRUCTION

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """``(sum, count)`` in nats, over all tokens."""
        return reconstruction_nll(context.reconstruction, context.text)
