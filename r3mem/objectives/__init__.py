"""SEAM 4: the terms of the training objective, one class a term, and the likelihoods that they are made of."""

from typing import TYPE_CHECKING

from r3mem.errors.renamed import old_names
from r3mem.objectives.autoencode import Autoencode
from r3mem.objectives.backward import BackwardCE
from r3mem.objectives.base import Term
from r3mem.objectives.context import Candidates, Need, Reading, Span, StepContext, Streams, ready
from r3mem.objectives.contrast import Contrast
from r3mem.objectives.cycle import Cycle
from r3mem.objectives.expand import ExpandNLL
from r3mem.objectives.forward import ForwardNLL
from r3mem.objectives.kl import FullTextKL, distillation
from r3mem.objectives.likelihood import forward_nll, log_likelihood, reconstruction_nll
from r3mem.objectives.objective import Objective, needs_of
from r3mem.objectives.query import QueryNLL
from r3mem.objectives.residual import Residual

__all__ = [
    "Autoencode",
    "BackwardCE",
    "Candidates",
    "Contrast",
    "Cycle",
    "ExpandNLL",
    "ForwardNLL",
    "FullTextKL",
    "Need",
    "Objective",
    "QueryNLL",
    "Reading",
    "Residual",
    "Span",
    "StepContext",
    "Streams",
    "Term",
    "distillation",
    "forward_nll",
    "log_likelihood",
    "needs_of",
    "ready",
    "reconstruction_nll",
]

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__, spelling_nll="reconstruction_nll")
