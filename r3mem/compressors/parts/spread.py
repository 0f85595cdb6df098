"""Where hidden states lie and how far they spread, told by quantiles: a few outlying states must not set the unit.

Shape legend: D width, M samples.
"""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILES = (0.16, 0.5, 0.84)
"""A normal variable's mean less one standard deviation, its mean, and its mean plus one."""

MOST_ELEMENTS = 1 << 24
"""``torch.quantile`` refuses more."""


def centre_and_spread(states_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Median and half the distance between the outer quantiles of every dimension.

    Args:
        states_MD: Sample states.

    Returns:
        ``(centre_D, spread_D)``, float32; the spread is above 0.
    """
    at_Q = torch.tensor(QUANTILES, device=states_MD.device)
    columns = max(1, MOST_ELEMENTS // max(1, len(states_MD)))
    pieces = [piece.float().quantile(at_Q, dim=0) for piece in torch.split(states_MD, columns, dim=1)]
    low_D, centre_D, high_D = torch.cat(pieces, 1)
    return centre_D, ((high_D - low_D) / 2).clamp(min=1e-6)
