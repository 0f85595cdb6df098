"""What a scorer must offer.

Shape legend: B batch, M memory positions, N text tokens, S = M + N, L layers, H heads of keys and values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor, nn

from r3mem.backbone.attention import Observed, View


class Scorer(nn.Module, ABC):
    """What each position of one pass is worth, per layer and head of keys and values.

    A scorer says which sums of attention it needs (`views`) and what it makes of them (`score`). So several scorers
    share one computation. Each constructor argument is stored in an attribute of the same name.

    Attributes:
        needs_logits: Whether the pass has to give the text's next-token logits (`Observed.scores`).
        future: The last so many tokens of every text are looked with and are not to be kept; 0 but for references.
    """

    needs_logits: ClassVar[bool] = False
    future: int = 0

    def views(self, observed: Observed) -> Sequence[View]:
        """Which sums of attention the scorer needs.

        Args:
            observed: The pass.
        """
        return ()

    @abstractmethod
    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """Scores ``BLHS``, at least 0 and finite; what they say is which of two positions is worth more.

        Args:
            observed: The pass.
            sums: ``BLHS`` of each view in turn, see `Observed.attention`.
        """

    def forward(self, observed: Observed) -> Tensor:
        """Scores ``BLHS`` of a pass, float32."""
        return self.score(observed, iter(observed.attention(self.views(observed))))
