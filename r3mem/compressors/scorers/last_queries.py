"""What the last queries looked at (SnapKV, 2404.14469).

Shape legend: B batch, N text tokens, S positions, L layers, H heads of keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from r3mem.backbone.attention import Observed, View
from r3mem.compressors.scorers.base import Scorer
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import check_whole


class LastQueries(Scorer):
    """Mean attention of the text's last queries, averaged along the positions in front of them.

    The last ``window`` tokens are observed with and always kept: each has the highest score of its head, and equal
    scores go to the later place. So a budget of K slots is ``window`` last tokens and K - ``window`` chosen ones. The
    window is counted in tokens; ``recent`` of `SelectedKeyValues` does the same in shares of the slots.

    The paper's method, as NVIDIA's ``SnapKVPress`` has it. Where this differs: a text of at most ``window`` tokens is
    all window, and the press refuses it. A memory in front is observed, and not averaged with the text behind it. In a
    state of several segments the window of each keeps its worth.

    Args:
        window: Queries at the end of every text, at least 1.
        kernel: Positions that are averaged into one score, odd. Those outside the text, or in the window, count as 0.

    Raises:
        ConfigError: No query, or an even kernel.
    """

    def __init__(self, window: int = 32, kernel: int = 5) -> None:
        super().__init__()
        check_whole(window=window, kernel=kernel)
        if window < 1 or kernel < 1 or kernel % 2 == 0:
            raise ConfigError(
                f"window {window} and kernel {kernel} are not possible: give at least 1 query, and an odd kernel"
            )
        self.window, self.kernel = window, kernel

    def views(self, observed: Observed) -> Sequence[View]:
        """See :meth:`Scorer.views`."""
        return (View(last=self.window, few=0.0),)

    def score(self, observed: Observed, sums: Iterator[Tensor]) -> Tensor:
        """See :meth:`Scorer.score`."""
        lengths_B1, n_memory = observed.text.lengths_B[:, None], observed.n_memory
        token_N = torch.arange(observed.n_text, device=lengths_B1.device)
        front_BN = token_N < lengths_B1 - self.window
        window_BN = (token_N < lengths_B1) & ~front_BN
        sums_BLHS = next(sums)
        text_BLHN = sums_BLHS[..., n_memory:] * front_BN[:, None, None]
        pooled_BXN = avg_pool1d(text_BLHN.flatten(1, 2), self.kernel, stride=1, padding=self.kernel // 2)
        pooled_BLHN = pooled_BXN.view_as(text_BLHN) * front_BN[:, None, None]
        # Where nothing is in front of the window, its tokens are worth the same, and not nothing.
        highest_BLH1 = pooled_BLHN.amax(-1, keepdim=True)
        highest_BLH1 = torch.where(highest_BLH1 > 0, highest_BLH1, 1.0)
        pooled_BLHN = torch.where(window_BN[:, None, None], highest_BLH1, pooled_BLHN)
        return torch.cat([sums_BLHS[..., :n_memory], pooled_BLHN], -1)
