"""What a term of the objective sees of a step: what it names in its `needs`, computed once for all terms that ask.

Shape legend: B rows, N text tokens, K virtual tokens, D width, T candidates of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from functools import cached_property, reduce
from operator import or_
from typing import Any, cast

import torch
from torch import Tensor

from r3mem.backbone import Pass
from r3mem.backbone.next_tokens import Scores
from r3mem.errors import ConfigError
from r3mem.memory import MemoryState, Segments
from r3mem.objectives.likelihood import log_likelihood
from r3mem.recall.stack_codec import StackCodec


class Need(Flag):
    """What a term may ask for; several are joined with ``|``.

    Attributes:
        MEMORY: The segment's own memory: ``context.state``.
        SCORES: What the backbone says of the segment behind the memory of what came before: ``context.reading``.
        TEACHER: What the untouched backbone says of it behind the full text: ``context.teacher``. Streams only.
        RECONSTRUCTION: What the backbone says of the segment behind its own memory: ``context.reconstruction``.
        STREAMS: The streams of the reversible stack: ``context.streams``.
        QUERY: The segment's query behind its own memory: ``context.query``.
        EXPANSION: The segment behind its own memory and its query: ``context.expansion``. Pairs only.
        CANDIDATES: Each query behind the memory of each candidate: ``context.candidates``. Pairs only.
    """

    MEMORY = auto()
    SCORES = auto()
    TEACHER = auto()
    RECONSTRUCTION = auto()
    STREAMS = auto()
    QUERY = auto()
    EXPANSION = auto()
    CANDIDATES = auto()


def together(needs: Iterable[Need]) -> Need:
    """All of several needs.

    Args:
        needs: Any number, also none.
    """
    return reduce(or_, needs, Need(0))


@dataclass(frozen=True)
class Reading:
    """A segment read behind the memory of what came before.

    Attributes:
        scores: Next-token logits ``BNV`` at the segment, or what makes them.
        rows_B: ``bool``; rows that have a memory, which alone count.
    """

    scores: Scores
    rows_B: Tensor


@dataclass(frozen=True)
class Streams:
    """The streams of the reversible stack.

    Attributes:
        codec: Codec of the stack.
        slots_BKD: The initial memory stream ``V_0``.
        residual_BND: What the stack leaves in the text stream.
    """

    codec: StackCodec
    slots_BKD: Tensor
    residual_BND: Tensor


@dataclass
class Span:
    """Some tokens of each row of a text that was read.

    Attributes:
        text: The whole text.
        scores: Next-token logits ``BNV`` at it, or what makes them.
        first: Position of the first token of the span, of all rows or ``B``; what is before position 1 is not
            predicted.
        last_B: One past its last token.
        rows_B: ``bool``; rows that count.
    """

    text: Segments
    scores: Scores
    first: int | Tensor
    last_B: Tensor
    rows_B: Tensor

    @cached_property
    def log_likelihood_B(self) -> Tensor:
        """Log-probability of each row's span in nats, also of rows that do not count."""
        return log_likelihood(self.scores, self.text, self.first, self.last_B)

    def nll(self) -> tuple[Tensor, Tensor]:
        """``(sum, count)``: nats over the spans of rows that count, and their tokens."""
        count_B = (self.last_B - torch.as_tensor(self.first).clamp(min=1)).clamp(min=0)
        return -(self.log_likelihood_B * self.rows_B).sum(), (count_B * self.rows_B).sum()


@dataclass(frozen=True)
class Candidates:
    """Queries, each with segments that may be its own.

    Attributes:
        scores_BT: Log-likelihood of each query given each candidate's memory.
        relevant_BT: ``bool``; candidates that answer the query.
        candidate_BT: ``bool``; False where nothing stands.
    """

    scores_BT: Tensor
    relevant_BT: Tensor
    candidate_BT: Tensor


def ready(value: Any) -> Callable[[], Any]:
    """A part of a :class:`StepContext` that is made already."""
    return lambda: value


class StepContext:
    """One place of a step: a segment of each row, the queries of some, or the candidates of queries.

    Args:
        parts: What makes each part that is there; it runs when the part is first read, and once.
        text: The segments; None where candidates are compared.
    """

    def __init__(self, parts: Mapping[Need, Callable[[], Any]], text: Segments | None = None) -> None:
        self._parts, self._text = dict(parts), text
        self._made: dict[Need, Any] = {}

    @property
    def gives(self) -> Need:
        """Everything that is there."""
        return together(self._parts)

    @property
    def text(self) -> Segments:
        """The segments of all rows."""
        if self._text is None:
            raise ConfigError("context.text is not there where candidates are compared: leave it out of the term")
        return self._text

    @property
    def state(self) -> MemoryState:
        """The segments' own memories."""
        return cast(MemoryState, self._part("state", Need.MEMORY))

    @property
    def reading(self) -> Reading:
        """The segments behind the memory of what came before."""
        return cast(Reading, self._part("reading", Need.SCORES))

    @property
    def teacher(self) -> Scores:
        """Next-token logits ``BNV`` of the untouched backbone, which reads all text of the batch, or their makers."""
        return cast(Scores, self._part("teacher", Need.TEACHER))

    @property
    def reconstruction(self) -> Pass:
        """The backbone's pass over the segments behind their own memories."""
        return cast(Pass, self._part("reconstruction", Need.RECONSTRUCTION))

    @property
    def streams(self) -> Streams:
        """The streams of the reversible stack."""
        return cast(Streams, self._part("streams", Need.STREAMS))

    @property
    def query(self) -> Span:
        """The segments' queries behind their own memories."""
        return cast(Span, self._part("query", Need.QUERY))

    @property
    def expansion(self) -> Span:
        """The segments behind their own memories and queries."""
        return cast(Span, self._part("expansion", Need.EXPANSION))

    @property
    def candidates(self) -> Candidates:
        """Queries and their candidates."""
        return cast(Candidates, self._part("candidates", Need.CANDIDATES))

    def _part(self, name: str, need: Need) -> Any:
        if need not in self._parts:
            raise ConfigError(f"context.{name} is not there: add Need.{need.name} to the `needs` of the term")
        if need not in self._made:
            self._made[need] = self._parts[need]()
        return self._made[need]
