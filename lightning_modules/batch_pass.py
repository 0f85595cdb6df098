"""One kind of batch: what its pass through the model gives to the terms of the objective, and what it measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.replay import Replay
from lightning_modules.token_metrics import EvaluationMetrics
from r3mem.errors import ConfigError
from r3mem.memory import MemoryState, Segments
from r3mem.model import R3Mem, Step
from r3mem.objectives import Need, StepContext, Streams, Term
from r3mem.objectives.context import together
from r3mem.plain_data.query_template import QueryTemplate
from r3mem.recall.stack_codec import StackCodec
from r3mem.reversible import Decoder

#: ``(sum, count)`` of every term, one for each place where it was computed.
Sums = dict[str, list[tuple[Tensor, Tensor]]]


class BatchPass(ABC):
    """One kind of batch, which a training step, validation and test take in the same way.

    Args:
        model: The model.
        template: What stands between a memory and a query.
        replay: Whether segments are computed again in the backward pass, and not kept.
        bptt_segments: Segments that gradients flow back through, where a batch is a stream.
        in_step: Whether every process has to run the same passes, because together they hold the layers.

    Attributes:
        places: What the pass gives at each of its places; a term is computed at the first that gives all it needs.
        otherwise: What gives the needs that no place of this kind gives.
    """

    places: ClassVar[tuple[Need, ...]]
    otherwise: ClassVar[str]

    def __init__(
        self,
        model: R3Mem,
        template: QueryTemplate,
        replay: bool = False,
        bptt_segments: int = 2,
        in_step: bool = False,
    ) -> None:
        self.model, self.template, self.replay = model, template, Replay(model, replay)
        self.bptt_segments, self.in_step = bptt_segments, in_step

    @abstractmethod
    def sums(
        self, batch: dict[str, Tensor], terms: Sequence[Term], state: MemoryState | None = None
    ) -> tuple[Sums, MemoryState | None]:
        """``(sum, count)`` of every term, and the memory that the next batch goes on from.

        Args:
            batch: A batch of this kind.
            terms: The terms that count.
            state: The memory of what came before the batch, where batches follow each other.
        """

    @abstractmethod
    def measure(self, batch: dict[str, Tensor], metrics: EvaluationMetrics) -> dict[str, Metric]:
        """Add what validation and test measure; gives the metrics that were added to, by the names they log.

        Args:
            batch: A batch of this kind.
            metrics: What is added to.
        """

    def check(self, terms: Sequence[Term]) -> None:
        """Refuse terms that this kind of batch cannot give: they would be trained on nothing.

        Raises:
            ConfigError: Names them, and what they need.
        """
        every = together(self.places)
        wrong = [term for term in terms if not any(term.needs in place for place in self.places)]
        absent = sorted(term.name for term in wrong if term.needs not in every)
        if absent:
            raise ConfigError(f"the objective has a weight for {', '.join(absent)}, which needs {self.otherwise}")
        for term in wrong:
            raise ConfigError(
                f"the objective has a weight for {term.name}, but no place of a batch gives all of its needs together "
                f"({term.needs}): make two terms of it, or ask for less"
            )

    def at(self, terms: Iterable[Term], place: Need) -> list[Term]:
        """The terms that are computed at a place."""
        return [t for t in terms if next((p for p in self.places if t.needs in p), None) == place]

    def own_parts(self, step: Step, text: Segments) -> dict[Need, Callable[[], Any]]:
        """What follows from a segment and its own memory alone."""
        parts: dict[Need, Callable[[], Any]] = {
            Need.MEMORY: lambda: step.state,
            Need.RECONSTRUCTION: lambda: self.model.reconstruct(text, step.state),
        }
        if self.model.decoder.reversible:
            parts[Need.STREAMS] = lambda: Streams(cast(StackCodec, self.model.codec), step.slots_BKD, step.residual_BND)
        return parts


def check_streams(terms: Iterable[Term], decoder: Decoder) -> None:
    """Refuse terms of streams that a decoder does not have.

    Raises:
        ConfigError: There is such a term.
    """
    wrong = [term.name for term in terms if Need.STREAMS in term.needs]
    if wrong and not decoder.reversible:
        raise ConfigError(
            f"the objective has a weight for {', '.join(wrong)}, but {type(decoder).__name__} moves no text into the "
            "memory that could be run backward: take the term out of the objective, and add "
            "r3mem.objectives.Autoencode, which trains the backbone to reconstruct the text"
        )


def add_terms(sums: Sums, terms: Iterable[Term], context: StepContext) -> None:
    """Compute terms at one place and append what they give; those whose needs are not all there are left out."""
    for term in terms:
        if term.needs in context.gives:
            sums[term.name].append(term(context))


def total(parts: list[tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Sum and count of a term, float32; zero where nothing was counted."""
    if not parts:
        return torch.zeros((), device=device), torch.zeros((), device=device)
    return torch.stack([p[0] for p in parts]).sum().float(), torch.stack([p[1] for p in parts]).sum().float()
