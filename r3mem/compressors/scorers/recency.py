"""The most recent positions: with the sinks, what StreamingLLM keeps (2309.17453)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from r3mem.attention import Observed
from r3mem.compressors.scorers.base import Scorer


class Recency(Scorer):
    """The later a position, the higher its score."""

    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`."""
        later_BS = (observed.positions_BS + 1) * observed.valid_BS
        return later_BS.float()[:, None, None].expand(observed.shape)
