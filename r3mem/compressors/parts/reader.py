"""How a backbone reads virtual tokens: an affine map into the hidden states of one of its layers.

Shape legend: B batch, K virtual tokens, P = K + 1 prefix states, D width, M samples.

A soft prompt among the input embeddings is foreign to a frozen model and has to be learned from a bad start. States
that enter at a middle layer, where the backbone's own states of the same text would stand, are read from the first step
on.
The order of one prefix, and its positions for a memory of n tokens at ratio r::

    state      anchor   slot 0      slot 1      ...   text
    position   0        (r-1)//2    r+(r-1)//2  ...   n, n+1, ...

The anchor is the state that the backbone's first position always takes (the attention sink); without it the first
slot would be taken for one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from r3mem.backbone.prefix import Prefix
from r3mem.compressors.parts.spread import centre_and_spread
from r3mem.errors import InputError
from r3mem.memory import MemoryState


class MemoryReader(nn.Module):
    """Affine map from virtual tokens to the hidden states that enter one decoder layer.

    Args:
        width: D, width of backbone and virtual tokens.
        layer: Decoder layer at which the states enter; 0 is the input embeddings.
    """

    scale_D: Tensor

    def __init__(self, width: int, layer: int) -> None:
        super().__init__()
        self.width, self.layer = width, layer
        self.map_DD = nn.Parameter(torch.eye(width))
        self.bias_D = nn.Parameter(torch.zeros(width))
        # The anchor sees itself alone: at zero it would stay zero through all layers, and gradients grow beyond all
        # bounds where every norm divides by next to nothing.
        self.anchor_D = nn.Parameter(torch.ones(width))
        # Learning happens in units of the layer's own spread: hidden dimensions differ by orders of magnitude.
        self.register_buffer("scale_D", torch.ones(width))

    def forward(self, memory: MemoryState, positions_BK: Tensor) -> Prefix:
        """The prefix that stands for a memory; rows that hold nothing are masked out altogether.

        Args:
            memory: The memory.
            positions_BK: Where each slot stands in the text, ``long``.
        """
        with torch.autocast(memory.slots_BKD.device.type, enabled=False):
            states_BKD = (memory.slots_BKD.float() @ self.map_DD.T + self.bias_D) * self.scale_D
            anchor_B1D = (self.anchor_D * self.scale_D).expand(len(states_BKD), 1, -1)
        mask_BK = memory.mask_BK
        holds_B = memory.lengths_B > 0
        return Prefix(
            states_BPD=torch.cat([anchor_B1D, states_BKD], 1),
            mask_BP=torch.cat([holds_B[:, None], mask_BK], 1),
            positions_BP=nn.functional.pad(positions_BK, (1, 0)),
            start_B=memory.lengths_B,
            layer=self.layer,
        )

    @torch.no_grad()
    def fit(self, slots_MD: Tensor, targets_MD: Tensor, anchor_D: Tensor, ridge: float = 0.03) -> float:
        """Set the map by ridge regression, so that reading a slot gives the state the backbone itself would have.

        Args:
            slots_MD: Virtual tokens.
            targets_MD: What each should be read as: the mean of the layer's states over the tokens it covers.
            anchor_D: State of the layer at the first position.
            ridge: Penalty, relative to the mean square of the slots.

        Returns:
            Share of the targets' variance that the map explains.

        Raises:
            InputError: All slots are the same.
        """
        if len(slots_MD) < 2 or bool((slots_MD == slots_MD[:1]).all()):
            raise InputError("calibration needs slots that differ: give a longer and more varied sample text")
        slots_MD, targets_MD = slots_MD.double(), targets_MD.double()
        scale_D = centre_and_spread(targets_MD)[1].double()
        targets_MD = targets_MD / scale_D
        slot_mean_D, target_mean_D = slots_MD.mean(0), targets_MD.mean(0)
        x_MD, y_MD = slots_MD - slot_mean_D, targets_MD - target_mean_D
        penalty = ridge * x_MD.square().sum() / x_MD.shape[1]
        gram_DD = x_MD.T @ x_MD + penalty * torch.eye(x_MD.shape[1], dtype=x_MD.dtype, device=x_MD.device)
        map_DD = torch.linalg.solve(gram_DD, x_MD.T @ y_MD).T
        self.map_DD.copy_(map_DD)
        self.bias_D.copy_(target_mean_D - map_DD @ slot_mean_D)
        self.scale_D.copy_(scale_D)
        self.anchor_D.copy_(anchor_D.double() / scale_D)
        return float(1 - (y_MD - x_MD @ map_DD.T).square().sum() / y_MD.square().sum())
