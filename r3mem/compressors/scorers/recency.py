"""The most recent positions: with the sinks, what StreamingLLM keeps (2309.17453)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from r3mem.backbone.attention import Observed
from r3mem.compressors.scorers.base import Scorer


class Recency(Scorer):
    """The later a position, the higher its score.

    Where this differs from StreamingLLM: its window slides token by token. Here every segment leaves its last
    positions, and a state drops them once it holds ``max_slots``. What is kept of a segment is worth 1 to 2 times its
    mean at a ratio above 2. So with ``decay`` 0.5 of `SelectedKeyValues` the later segment always stays.
    """

    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`."""
        later_BS = (observed.positions_BS + 1) * observed.valid_BS
        return later_BS.float()[:, None, None].expand(observed.shape)
