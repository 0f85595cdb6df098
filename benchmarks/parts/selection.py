"""Memories of selected keys and values by several scorers and ratios, of one pass over a text.

Shape legend: B batch (one text), N tokens of a text, K slots, W numbers of a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.parts.harness import Stopwatch
from r3mem import Backbone, MemoryState, Segments
from r3mem.compressors import SelectedKeyValues
from r3mem.compressors.scorers import (
    AttentionReceived,
    BenefitWeightedAttention,
    DistantAttention,
    RandomScores,
    Recency,
    Scorer,
    SumOfScorers,
)

ONE_PASS, TWO_PASSES = "selected (1 pass)", "selected (2 passes)"


def one_pass() -> Scorer:
    """The default of a single pass."""
    return SumOfScorers([AttentionReceived(), DistantAttention()])


def two_passes() -> Scorer:
    """The default of two passes: attention received and benefit-weighted distant attention."""
    return SumOfScorers([AttentionReceived(), BenefitWeightedAttention()])


#: Scorers by name: what is measured of a history that is read in one pass.
SCORERS: dict[str, Callable[[], Scorer]] = {
    ONE_PASS: one_pass,
    TWO_PASSES: two_passes,
    "attention received": AttentionReceived,
    "distant attention": DistantAttention,
    "sinks and last": Recency,
    "random": RandomScores,
}


#: Those of which a share of the slots is for the last positions, as much as our default keeps.
OURS = (ONE_PASS, TWO_PASSES)


class Selection:
    """Chooses what is kept of a text.

    Args:
        backbone: The model that reads the text.
        ratios: Text tokens per position.
        methods: Names of `SCORERS`; the first is ours.
        stopwatch: Adds up what the pass and each scorer take.
    """

    def __init__(self, backbone: Backbone, ratios: Sequence[int], methods: Sequence[str], stopwatch: Stopwatch) -> None:
        self.backbone, self.ratios, self.stopwatch = backbone, ratios, stopwatch
        self.ours = methods[0]
        self.scorers = {name: SCORERS[name]() for name in methods}

    @torch.no_grad()
    def memories(self, text_N: Tensor, methods: Sequence[str] | None = None) -> dict[tuple[str, int], MemoryState]:
        """Memories of a text by method and ratio: one pass, a score each, without words in them.

        Args:
            text_N: Token ids.
            methods: Which; None for all.
        """
        scorers = {name: self.scorers[name] for name in methods or self.scorers}
        text, logits = Segments.whole(text_N[None]), any(s.needs_logits for s in scorers.values())
        timed, found = self.stopwatch, {}
        with self.backbone.head_apart():
            observed = timed("write: the pass", self.backbone, text, None, logits=logits, observe=True).attention
            scored = {name: timed(f"write: {name}", scorer, observed) for name, scorer in scorers.items()}
        for name, scores_BLHS in scored.items():
            for ratio in self.ratios:
                slots_BKW = self.compressor(ratio, name).select(self.backbone, observed, scores_BLHS)
                found[name, ratio] = MemoryState(slots_BKW, text.lengths_B, ratio)
        return found

    def compressor(self, ratio: int, method: str | None = None) -> SelectedKeyValues:
        """The compressor of a method, None for the first, at a ratio."""
        method = method or self.ours
        share = {} if method in OURS else {"recent": 0.0}
        return SelectedKeyValues(self.backbone.width, ratio, self.scorers[method], **share)
