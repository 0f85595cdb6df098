"""RATE: recurrent memory whose update passes a memory retention valve (Cherepanov et al., 2306.09459).

Shape legend: B batch, K virtual tokens, H heads, C width of a head, D width.

One segment; ``out`` is the model's output at the write slots::

    [M ; x ; M] -> out          as the Recurrent Memory Transformer
    M' = valve(M, out)          queries M, keys and values out
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from r3mem.backbone import Backbone
from r3mem.compressors.base import Written
from r3mem.compressors.parts.learned_slots import held_slots
from r3mem.compressors.parts.soft_prompt import soft_prompt
from r3mem.compressors.peers.recurrent_memory import RecurrentMemory
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import MemoryState, Segments


class RetentionValve(RecurrentMemory):
    """The old memory asks, by cross-attention, for what of the newly written one takes its place (2306.09459).

    Where this differs from the paper:

    - The paper's agent reads observations, actions and returns; here a language model reads text. The hidden states
      that it caches of earlier segments beside the memory are left out: nothing but the memory goes on.
    - No feed-forward layer and no activation stand behind or before the attention.
    - The valve's value and output maps start as the identity, so that what comes out of it at the start lies where the
      model's own output does; the pre-trained model is frozen but for its adapters, the paper trains from nothing.
    - Everything that :class:`RecurrentMemory` lists. A slot that the memory has not asks with its part of ``M_0``;
      slots of the memory beyond the segment's own are read, but ask for nothing and end there.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        slots: S, vectors of ``M_0``; the longest segment needs its number of tokens divided by the ratio.
        heads: Heads of the valve; they divide the width.
    """

    def __init__(self, width: int, ratio: int = 16, slots: int = 128, heads: int = 4) -> None:
        super().__init__(width, ratio, slots)
        if whole_setting(heads, "heads") < 1 or width % heads:
            raise ConfigError(f"{heads} heads cannot share a width of {width}: choose a divisor of it")
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)  # A bias of keys changes no attention.
        for layer in (self.value, self.out):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`."""
        mask_BK = self.slot_mask(text)
        held_BPD, held_BP = held_slots(self.initial(text), mask_BK, memory)
        old_BKD = held_BPD[:, : mask_BK.shape[1]]
        written = self.write(backbone, text, soft_prompt(held_BPD, held_BP), old_BKD, logits)
        return Written(self.retain(old_BKD, written.slots_BKD, mask_BK), written.scores)

    def retain(self, old_BKD: Tensor, new_BKD: Tensor, mask_BK: Tensor) -> Tensor:
        """The valve: what each old slot takes of all newly written ones, ``BKD``; zero where no slot is.

        Args:
            old_BKD: Memory before the segment.
            new_BKD: What the segment's pass wrote.
            mask_BK: Slots of the segment.
        """
        with torch.autocast(old_BKD.device.type, enabled=False):
            # A row without a slot would ask among nothing; what it finds is dropped.
            among_BK = mask_BK | (torch.arange(mask_BK.shape[1], device=mask_BK.device) == 0)
            query_BHKC = self._heads(self.query(old_BKD.float()))
            key_BHKC, value_BHKC = self._heads(self.key(new_BKD)), self._heads(self.value(new_BKD))
            found_BHKC = scaled_dot_product_attention(query_BHKC, key_BHKC, value_BHKC, among_BK[:, None, None])
            out_BKD: Tensor = self.out(found_BHKC.transpose(1, 2).flatten(2))
        return out_BKD * mask_BK[..., None]

    def _heads(self, states_BKD: Tensor) -> Tensor:
        return states_BKD.reshape(*states_BKD.shape[:2], self.heads, -1).transpose(1, 2)
