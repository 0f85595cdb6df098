"""Which tokens and which slots of a padded batch are real.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_mask(lengths_B: Tensor, n_tokens: int) -> Tensor:
    """True where a token stands: ``mask_BN``."""
    return torch.arange(n_tokens, device=lengths_B.device) < lengths_B[:, None]


def slot_mask(lengths_B: Tensor, n_slots: int, ratio: int) -> Tensor:
    """True where a slot covers at least one token: ``mask_BK``.

    ```
    ratio 4, length 6      tokens  x x x x | x x . .
                           slots      1    |    1        and every later slot 0
    ```
    """
    return torch.arange(n_slots, device=lengths_B.device) * ratio < lengths_B[:, None]


def keep_where(mask_BN: Tensor, stream_BND: Tensor) -> Tensor:
    """The stream with exact zeros where the mask is False, even over NaN, which a product with 0 would let through."""
    return torch.where(mask_BN[..., None], stream_BND, stream_BND.new_zeros(()))
