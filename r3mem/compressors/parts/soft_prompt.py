"""Memory as an ordinary soft prompt: slots stand among the input embeddings, as most published systems have them.

Shape legend: B batch, K virtual tokens, P prefix states, D width.

The order of one prefix and its positions, for a row with k slots in use; whatever is not in use is not seen::

    state      slot 0   slot 1   ...   slot k-1   text
    position   0        1        ...   k-1        k, k+1, ...
"""

from __future__ import annotations

import torch
from torch import Tensor

from r3mem.backbone.prefix import Prefix


def soft_prompt(states_BPD: Tensor, mask_BP: Tensor) -> Prefix:
    """The prefix that enters with the input embeddings, at positions without a gap.

    Args:
        states_BPD: States in the space of the input embeddings.
        mask_BP: Which of them are in use; those of a row stand side by side from its first place on.
    """
    positions_P = torch.arange(mask_BP.shape[1], device=mask_BP.device)
    return Prefix(states_BPD, mask_BP, positions_P.expand_as(mask_BP), start_B=mask_BP.sum(1))
