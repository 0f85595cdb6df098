"""Which positions of one backbone pass attend to which.

Shape legend: B batch, Q queries, S keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class PassMasks:
    """Additive attention masks of one pass: for the layers that read the prefix, and for those below it."""

    all_layers: Tensor
    below: Tensor
    n_queries: int

    @classmethod
    def build(
        cls,
        valid_BS: Tensor,
        n_prefix: int,
        n_queries: int,
        dtype: torch.dtype,
        order_BS: Tensor | None = None,
        segment_BS: Tensor | None = None,
    ) -> PassMasks:
        """Masks of a pass.

        Args:
            valid_BS: True where a position holds something.
            n_prefix: Positions of the prefix; they are the first.
            n_queries: Positions that the pass computes; they are the last, the others are cached.
            dtype: Of the masks.
            order_BS: Where each position stands among the others of its row: one sees those in front of it. None: as
                they are stored.
            segment_BS: Segment of each position of a prefix, see `Prefix`, and -1 behind it; None: nothing is apart.
        """
        n_keys = valid_BS.shape[1]
        query_Q = torch.arange(n_keys - n_queries, n_keys, device=valid_BS.device)
        key_S = torch.arange(n_keys, device=valid_BS.device)
        order_BS = key_S[None] if order_BS is None else order_BS
        causal_BQS = order_BS[:, None] <= order_BS[:, n_keys - n_queries :, None]
        itself_QS = key_S == query_Q[:, None]
        # A padded query has nothing to attend to; itself keeps its softmax finite.
        seen_BQS = (causal_BQS & valid_BS[:, None]) | itself_QS
        if segment_BS is not None:
            seen_BQS = seen_BQS & same_segment(segment_BS[:, n_keys - n_queries :], segment_BS)
        below_BQS = seen_BQS & ~((key_S < n_prefix) & (query_Q[:, None] >= n_prefix))
        return cls.additive(seen_BQS, below_BQS, dtype)

    @classmethod
    def additive(cls, seen_BQS: Tensor, below_BQS: Tensor, dtype: torch.dtype) -> PassMasks:
        """Masks of what is seen.

        Args:
            seen_BQS: True where a query attends to a key.
            below_BQS: The same below the prefix's layer.
            dtype: Of the masks.
        """
        blocked = torch.finfo(dtype).min
        masks = [
            torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, blocked)[:, None]
            for seen in (seen_BQS, below_BQS)
        ]
        return cls(masks[0], masks[1], seen_BQS.shape[1])


def same_segment(query_BQ: Tensor, key_BS: Tensor) -> Tensor:
    """``bool BQS``: whether two positions are of one segment, or one of them is of none (-1)."""
    query_BQ1, key_B1S = query_BQ[:, :, None], key_BS[:, None]
    return (query_BQ1 == key_B1S) | (query_BQ1 < 0) | (key_B1S < 0)
