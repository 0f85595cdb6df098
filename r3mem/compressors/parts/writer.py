"""From raw hidden states to the initial memory stream ``V_0``.

Shape legend: B batch, K virtual tokens, D width, M samples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from r3mem.compressors.parts.spread import centre_and_spread


class SlotWriter(nn.Module):
    """Standardise hidden states, then project them linearly (identity at the start).

    Args:
        width: D, width of backbone and virtual tokens.
    """

    centre_D: Tensor
    scale_D: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.map_DD = nn.Parameter(torch.eye(width))
        self.register_buffer("centre_D", torch.zeros(width))
        self.register_buffer("scale_D", torch.ones(width))

    def forward(self, states_BKD: Tensor, mask_BK: Tensor) -> Tensor:
        """``V_0`` in float32; slots outside the mask are zero."""
        with torch.autocast(states_BKD.device.type, enabled=False):
            standard_BKD = (states_BKD.float() - self.centre_D) / self.scale_D
            return (standard_BKD @ self.map_DD.T) * mask_BK[..., None]

    @torch.no_grad()
    def fit(self, states_MD: Tensor) -> None:
        """Take centre and spread from sample states."""
        centre_D, spread_D = centre_and_spread(states_MD)
        self.centre_D.copy_(centre_D)
        self.scale_D.copy_(spread_D)
