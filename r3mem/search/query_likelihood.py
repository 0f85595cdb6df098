"""Search by memory alone: the query's likelihood given each passage's virtual tokens, their text unseen.

Shape legend: B batch (passages), N query tokens, K virtual tokens, V vocabulary.
"""

from __future__ import annotations

from r3mem.backbone import Backbone
from r3mem.backbone.evaluation_mode import evaluating
from r3mem.backbone.next_tokens import Scores
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import MemoryState, Segments, slots_needed
from r3mem.model import R3Mem
from r3mem.plain_data.query_template import TEMPLATE
from r3mem.search.likelihood import Likelihood


class QueryLikelihood(Likelihood[MemoryState]):
    """Scores are ``log p(query | memory of the passage)`` in nats (docs/method.md, Refinement).

    Each passage is compressed as one segment that reads nothing before it. The virtual tokens are kept as the stack
    gives them (float32), not rounded to a stored precision, and nothing else of a passage is kept.

    Args:
        model: The model.
        ratio: Text tokens per virtual token; None for the model's own. The model's ratio is changed only while it
            compresses.
        template: As in :class:`Likelihood`.
        batch: Passages read at a time.
    """

    def __init__(self, model: R3Mem, ratio: int | None = None, template: str = TEMPLATE, batch: int = 16) -> None:
        super().__init__(template, batch)
        self.model, self.ratio = model, None if ratio is None else whole_setting(ratio, "ratio", 1)

    @property
    def positions_per_passage(self) -> float | None:
        """Mean virtual tokens of a passage; the one anchor that every prefix has is not counted."""
        states = [state for _, state in self._kept]
        counts = [slots_needed(n, state.ratio) for state in states for n in state.lengths_B.tolist()]
        return sum(counts) / len(counts) if counts else None

    @property
    def _backbone(self) -> Backbone:
        return self.model.backbone

    @property
    def _module(self) -> R3Mem:
        return self.model

    def _index(self, passages: list[str]) -> None:
        with evaluating(self.model), self.model.at_ratio(self.ratio):
            super()._index(passages)

    def _keep(self, rows: list[list[int]]) -> MemoryState:
        own = self.model.step(Segments.pad(rows, self._backbone.device), None, logits=False).state.detach()
        # As a stored memory is read: not more slots than a state may hold.
        return self.model.next_state(None, own)

    def _positions(self, kept: MemoryState) -> int:
        return int(self.model.compressor.read(kept).start_B.max())

    def _logits(self, kept: MemoryState, query: Segments) -> Scores:
        return self.model.scores(query, kept)
