"""The In-context Autoencoder: adapters write, the frozen model reads (Ge et al., 2307.06945).

Shape legend: B batch, K virtual tokens, S learned vectors, P prefix states, D width.

Three passes; ``m`` are learned vectors, ``M`` the model's output there, ``[LM]`` and ``[AE]`` one learned vector each::

    adapters on    [x_t ; m]              write M_t
    adapters off   [M_t ; LM ; x_t+1]     read what follows
    adapters off   [M_t ; AE ; x_t]       reconstruct the text itself
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from r3mem.backbone import Backbone
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.parts.frozen_reader import FrozenReader
from r3mem.memory import MemoryState, Segments


class InContextAutoencoder(FrozenReader):
    """A LoRA encoder writes the slots, the same model without its adapters is the decoder (2307.06945, section 2).

    The encoder reads the segment alone. Objectives of the paper: autoencoding (the objective's ``Autoencode``) and the
    continuation of the text (``forward``).

    Where this differs from the paper:

    - The number of slots follows the segment, ``K = ceil(N / ratio)``; the paper has 128 for 512 tokens.
    - Of the continuation, the likelihood of its first token is not counted, as nowhere here.
    - A state holds the last segment. To read the slots of several, as the paper does with long texts, read the records.
    - Between write and read stands the stack. With an exact share, its part of each slot carries words.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        slots: S, learned vectors; the longest segment needs its number of tokens divided by the ratio.
    """

    def __init__(self, width: int, ratio: int = 16, slots: int = 128) -> None:
        super().__init__(width, ratio, slots)
        self.continue_D = nn.Parameter(torch.randn(width))
        self.spell_D = nn.Parameter(torch.randn(width))

    def read(self, memory: MemoryState) -> Prefix:
        """The slots and ``[LM]``; see :meth:`Compressor.read`."""
        return _with_task(memory, self.continue_D)

    def read_to_reconstruct(self, memory: MemoryState) -> Prefix:
        """The slots and ``[AE]``; see :meth:`Compressor.read_to_reconstruct`."""
        return _with_task(memory, self.spell_D)

    @torch.no_grad()
    def calibrate(self, backbone: Backbone, text: Segments, finish: Callable[[Tensor], Tensor]) -> float:
        """Give all learned vectors the spread of the input embeddings."""
        for vector_D in (self.continue_D, self.spell_D):
            vector_D.mul_(backbone.embedding_VD.float().std() / vector_D.std())
        return super().calibrate(backbone, text, finish)


def _with_task(memory: MemoryState, task_D: Tensor) -> Prefix:
    """A row's slots at positions 0, 1, ..., the task's vector right behind; nothing of a row that holds nothing."""
    mask_BK = memory.mask_BK
    holds_B1, count_B1 = (memory.lengths_B > 0)[:, None], mask_BK.sum(1, keepdim=True)
    places_BK = torch.arange(mask_BK.shape[1], device=mask_BK.device).expand_as(mask_BK)
    return Prefix(
        states_BPD=torch.cat([memory.slots_BKD, task_D.expand(len(mask_BK), 1, -1)], 1),
        mask_BP=torch.cat([mask_BK, holds_B1], 1),
        positions_BP=torch.cat([places_BK, count_B1], 1),
        start_B=(count_B1 + holds_B1)[:, 0],
    )
