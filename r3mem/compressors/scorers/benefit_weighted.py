"""Distant attention of the queries that distant context helped.

Shape legend: B batch, N text tokens, R rows of windows, Z tokens of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from r3mem.backbone.attention import Observed, View
from r3mem.backbone.next_tokens import Scores, nats
from r3mem.compressors.scorers.base import Scorer
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import check_whole
from r3mem.memory import Segments

WINDOWS_AT_ONCE = 8


class BenefitWeightedAttention(Scorer):
    """Attention to distant positions by the queries whose next token a long context made more likely.

    The benefit of a query is ``max(0, NLL in a short window - NLL with everything)`` of its next token, nats. What
    was looked at there is what a later reader will look for. It costs a second pass over twice the text, in windows.
    A text within one window, with nothing before it, has no benefit: every score is 0 then.

    Args:
        distance: Only attention to positions at least so many tokens in front of the query counts.
        window: Tokens of a short window; its second half is what it scores.
    """

    needs_logits: ClassVar[bool] = True

    def __init__(self, distance: int = 128, window: int = 256) -> None:
        super().__init__()
        check_whole(distance=distance, window=window)
        if distance < 1 or window < 2 or window % 2:
            raise ConfigError(
                f"distance {distance} and window {window} are not possible: give at least 1 token, and an even window"
            )
        self.distance, self.window = distance, window

    def views(self, observed: Observed) -> Sequence[View]:
        """See :meth:`Scorer.views`."""
        return (View(self.benefit(observed), self.distance),)

    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`."""
        return next(sums)

    @torch.no_grad()
    def benefit(self, observed: Observed) -> Tensor:
        """Benefit ``BN`` of each query, nats; 0 at the last token and at padding."""
        text, half = observed.text, self.window // 2
        assert observed.scores is not None
        whole_BN = next_nll(observed.scores, text)
        short_BN = torch.zeros_like(whole_BN)
        n_text = text.ids_BN.shape[1]
        rows, places = [], []
        for start in range(0, max(1, n_text - half), half):
            length_B = (text.lengths_B - start).clamp(0, self.window)
            for b in torch.nonzero(length_B > 1).flatten().tolist():
                rows.append(text.ids_BN[b, start : start + int(length_B[b])].tolist())
                places.append((b, start))
        # Windows of like length stand together, so that little is padded.
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        for first in range(0, len(order), WINDOWS_AT_ONCE):
            some = order[first : first + WINDOWS_AT_ONCE]
            window = Segments.pad([rows[i] for i in some], text.ids_BN.device)
            for i, nll_Z in zip(some, next_nll(observed.read(window).scores, window), strict=True):
                b, start = places[i]
                scored = 0 if start == 0 else half - 1
                short_BN[b, start + scored : start + len(rows[i])] = nll_Z[scored : len(rows[i])]
        return (short_BN - whole_BN).clamp(min=0)


def next_nll(scores: Scores, text: Segments) -> Tensor:
    """Negative log-likelihood ``BN`` of the token behind each position, nats; 0 at the last and at padding."""
    targets_BN = text.ids_BN[:, 1:].masked_fill(~text.mask_BN[:, 1:], -100)
    return pad(nats(scores, targets_BN), (0, 1))
