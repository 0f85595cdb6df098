r"""What the two query likelihoods share: a passage is as good as the query is likely after it.

Shape legend: B batch (passages), N query tokens, V vocabulary.

What the backbone reads for one passage, and which tokens count::

    [passage, as text or as virtual tokens]   \nQuestion:   Where was she born ?
                                              given         scored: log p of each, summed

All passages are asked the same tokens, so no norm for length is needed. (Query likelihood as in Ponte & Croft 1998.)
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

import torch
from torch import nn

from r3mem.backbone import Backbone
from r3mem.backbone.evaluation_mode import evaluating
from r3mem.backbone.next_tokens import Scores
from r3mem.errors import ConfigError, InputError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import Segments
from r3mem.objectives import log_likelihood
from r3mem.plain_data.query_template import TEMPLATE, QueryTemplate
from r3mem.plain_data.text_ids import text_ids
from r3mem.search.base import Searcher

Kept = TypeVar("Kept")


class Likelihood(Searcher, Generic[Kept]):
    """Scores are ``log p(query | passage)`` in nats.

    Passages are read in batches of about equal length, for indexing and for every query.

    Args:
        template: What stands between a passage and a query; must end with ``{query}``. Its words are given, not
            scored, and let the query's first token be scored too. With ``{query}`` alone that token is not scored.
        batch: Passages read at a time.
    """

    def __init__(self, template: str = TEMPLATE, batch: int = 16) -> None:
        if whole_setting(batch, "batch") < 1:
            raise ConfigError(f"batch {batch} is not possible; read at least 1 passage at a time")
        self.template, self.batch = template, batch
        self._asking = QueryTemplate(template)
        self._kept: list[tuple[list[int], Kept]] = []
        self._longest = 0

    @property
    @abstractmethod
    def _backbone(self) -> Backbone:
        """The language model that scores."""

    @property
    @abstractmethod
    def _module(self) -> nn.Module:
        """Everything that must not be in training mode while it scores."""

    @abstractmethod
    def _keep(self, rows: list[list[int]]) -> Kept:
        """What is kept of a batch of passages, given as token ids."""

    @abstractmethod
    def _positions(self, kept: Kept) -> int:
        """Position behind the longest passage of a batch, where a query is read."""

    def _read(self, n_tokens: int) -> int:
        """Positions that indexing a passage of so many tokens takes."""
        return n_tokens

    @abstractmethod
    def _logits(self, kept: Kept, query: Segments) -> Scores:
        """Next-token logits ``BNV`` at a query's tokens, or what makes them.

        Row b follows passage b, and all rows are alike.
        """

    @torch.no_grad()
    def _index(self, passages: list[str]) -> None:
        tokens = [self._tokens(passage) for passage in passages]
        self._check_fits(max(self._read(len(row)) for row in tokens), 0)
        by_length = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        self._kept = []
        with evaluating(self._module):
            for at in range(0, len(by_length), self.batch):
                numbers = by_length[at : at + self.batch]
                self._kept.append((numbers, self._keep([tokens[i] for i in numbers])))
        self._longest = max(self._positions(kept) for _, kept in self._kept)

    @torch.no_grad()
    def _scores(self, query: str) -> list[float]:
        given, scored = self.split(query)
        self._check_fits(self._longest, len(given) + len(scored))
        ids_N = torch.tensor(given + scored, device=self._backbone.device)
        out = [0.0] * self.n_passages
        with evaluating(self._module):
            for numbers, kept in self._kept:
                rows = Segments.whole(ids_N.expand(len(numbers), -1))
                found_B = log_likelihood(self._logits(kept, rows), rows, len(given))
                for i, value in zip(numbers, found_B.tolist(), strict=True):
                    out[i] = value
        return out

    def split(self, query: str) -> tuple[list[int], list[int]]:
        """Token ids that are given before the query, and those that are scored; see :class:`QueryTemplate`.

        Args:
            query: The query.

        Raises:
            InputError: Nothing is left to score.
        """
        tokenizer = self._backbone.tokenizer
        given, scored = self._asking.given(tokenizer), self._asking.scored(tokenizer, query)
        if not given:
            given, scored = scored[:1], scored[1:]
        if not scored:
            raise InputError(f"query {query!r}: no token is left to score; give a longer query or a template")
        return given, scored

    def _tokens(self, text: str) -> list[int]:
        return text_ids(text, self._backbone.tokenizer)

    def _check_fits(self, longest: int, n_query: int) -> None:
        self._backbone.check_fits(
            longest + n_query,
            f"a passage of {longest} positions and a query of {n_query} tokens",
            f"it does not fit the {self._backbone.max_positions} positions; cut passages into smaller ones before "
            "indexing, or shorten the query",
        )
