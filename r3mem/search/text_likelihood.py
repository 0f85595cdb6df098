"""Query likelihood over the raw text: what a memory could reach if it lost nothing.

Shape legend: B batch (passages), N query tokens, M tokens of passage and query, V vocabulary.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import Segments, slots_needed
from r3mem.plain_data.query_template import TEMPLATE
from r3mem.search.likelihood import Likelihood


class TextLikelihood(Likelihood[list[list[int]]]):
    """Scores are ``log p(query | text of the passage)`` in nats. Every passage is read anew for every query.

    Args:
        backbone: The language model.
        adapters: Whether its adapters are on; off is the untouched base model.
        template: As in :class:`Likelihood`.
        batch: Passages read at a time; logits of all their tokens are held.
        ratio: Read the first ``1 / ratio`` of each passage's tokens only, as many positions as a memory of that ratio
            has: what a memory has to beat.
    """

    def __init__(
        self, backbone: Backbone, adapters: bool = False, template: str = TEMPLATE, batch: int = 8, ratio: int = 1
    ) -> None:
        super().__init__(template, batch)
        if whole_setting(ratio, "ratio") < 1:
            raise ConfigError(f"ratio {ratio} is not possible; 1 reads the whole passage")
        self.backbone, self.adapters, self.ratio = backbone, adapters, ratio

    @property
    def positions_per_passage(self) -> float | None:
        """Mean tokens of a passage."""
        counts = [len(row) for _, rows in self._kept for row in rows]
        return sum(counts) / len(counts) if counts else None

    @property
    def _backbone(self) -> Backbone:
        return self.backbone

    @property
    def _module(self) -> Backbone:
        return self.backbone

    def _keep(self, rows: list[list[int]]) -> list[list[int]]:
        return [row[: slots_needed(len(row), self.ratio)] for row in rows]

    def _positions(self, kept: list[list[int]]) -> int:
        return max(map(len, kept))

    def _read(self, n_tokens: int) -> int:
        return slots_needed(n_tokens, self.ratio)

    def _logits(self, kept: list[list[int]], query: Segments) -> Tensor:
        device, ids = query.ids_BN.device, query.ids_BN[0].tolist()
        with nullcontext() if self.adapters else self.backbone.adapters_off():
            logits_BMV: Tensor | None = self.backbone(Segments.pad([row + ids for row in kept], device)).logits_BNV
        assert logits_BMV is not None
        starts_B = torch.tensor([len(row) for row in kept], device=device)
        places_BN = starts_B[:, None] + torch.arange(len(ids), device=device)
        return logits_BMV[torch.arange(len(kept), device=device)[:, None], places_BN]
