"""What a known continuation looks at: a reference that knows the answer, not a method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from r3mem.backbone.attention import Observed, View
from r3mem.compressors.scorers.base import Scorer
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting


class FutureAttention(Scorer):
    """Mean attention of the last ``future`` tokens, which are the continuation and are not kept themselves.

    Args:
        future: Tokens of the continuation at the end of every text.
    """

    def __init__(self, future: int = 256) -> None:
        super().__init__()
        if whole_setting(future, "future") < 1:
            raise ConfigError(f"future {future} is not possible: give at least 1 token that is looked with")
        self.future = future

    def views(self, observed: Observed) -> Sequence[View]:
        """See :meth:`Scorer.views`."""
        return (View(last=self.future),)

    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`."""
        return next(sums)
