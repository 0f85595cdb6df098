"""Distributed associative memory: blocks updated each on its own, read together (Park et al., 2007.10637).

Shape legend: B batch, N text tokens, K virtual tokens, S learned vectors, A blocks, D width, C = D / A of a block.

A slot of width D is one row of every block. Writing and reading, per block::

    w_nk   = softmax over k of key(x_n) . M_k / sqrt(C)            where token n goes
    keep_k = product over n of (1 - g_n w_nk)                      g_n: how far token n is written
    M'_k   = keep_k M_k + (1 - keep_k) mean of value(x_n) with weights g_n w_nk

    r_k    = sum over j of softmax(query_k . M_j / sqrt(C)) M_j    each block by itself
    read_k = sum over blocks of softmax(gate_k) lift(r_k)          all blocks together
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from r3mem.compressors.parts.external_memory import ExternalMemory
from r3mem.errors import ConfigError
from r3mem.memory import MemoryState


class AssociativeBlocks(ExternalMemory):
    """Every block stores an association of its own of the same segment; reading weighs the blocks (2007.10637, DAM).

    Memory refreshing loss: train with ``Autoencode`` of the objective, which asks for a segment's own tokens from its
    memory. The paper asks for a random sample of the inputs; a mean over such a sample is an estimate of the mean over
    all tokens that ``autoencode`` is, so that no other term is needed and the paper's probability has no counterpart.
    Each token is asked for with those before it in sight, as a causal language model has to be.

    Where this differs from the paper:

    - The paper extends a differentiable neural computer: a recurrent controller writes and reads at every input. Here a
      pre-trained causal language model is the controller and a segment is written at once, from its states; erasures of
      the tokens are multiplied as if one had come after the other, what is written is their weighted mean and takes
      the place of just what was erased. Usage and temporal links of the slots are left out.
    - Reading. The paper's controller asks and weighs the blocks at every input. Here a memory is read before the text
      is seen: each slot asks with its own content, and the weights of the blocks are its own. What is found goes
      through one affine map and stands as hidden states in front of the text at one layer, where the backbone's
      self-attention weighs it for every token.
    - The number of slots follows the segment, ``K = ceil(N / ratio)``. Slots of the memory beyond a segment's own are
      read and end there.
    - Slots start from learned vectors, in the paper from nothing: addresses by content need rows that differ.
    - Between write and read stands the stack. With an exact share, its part of each slot carries words.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        slots: S, learned vectors; the longest segment needs its number of tokens divided by the ratio.
        blocks: A, 2 or more; they divide the width.
        read_layer: Decoder layer at which a memory enters; 0 is the input embeddings.
    """

    def __init__(self, width: int, ratio: int = 16, slots: int = 128, blocks: int = 4, read_layer: int = 0) -> None:
        super().__init__(width, ratio, slots, read_layer)
        if blocks < 2 or width % blocks:
            raise ConfigError(f"{blocks} blocks cannot share a width of {width}: choose a divisor of it, 2 or more")
        self.blocks = blocks
        self.initial_SD = nn.Parameter(torch.randn(slots, width))
        self.key, self.value, self.query = (nn.Linear(width, width) for _ in range(3))
        self.write, self.gate = nn.Linear(width, blocks), nn.Linear(width, blocks)
        # A token writes little at the start: those of one segment together would erase all that was there.
        nn.init.constant_(self.write.bias, -2.0)
        block = width // blocks
        self.lift_ACD = nn.Parameter(torch.randn(blocks, block, width) / block**0.5)

    @property
    def start_SD(self) -> Tensor:
        """The learned vectors."""
        return self.initial_SD

    def update(self, slots_BKD: Tensor, slot_mask_BK: Tensor, states_BND: Tensor, mask_BN: Tensor) -> Tensor:
        """See :meth:`ExternalMemory.update`."""
        memory_BAKC, key_BANC = self._blocks(slots_BKD), self._blocks(self.key(states_BND))
        written_BAN = self.write(states_BND).sigmoid().transpose(1, 2) * mask_BN[:, None]
        going_BANK = _weights(key_BANC, memory_BAKC, slot_mask_BK) * written_BAN[..., None]
        # The logarithm of nothing kept has no gradient.
        keep_BAK1 = torch.log1p(-going_BANK.clamp(max=1 - 1e-6)).sum(2).exp()[..., None]
        total_BAK1 = going_BANK.sum(2).clamp(min=1e-6)[..., None]
        mean_BAKC = going_BANK.transpose(2, 3) @ self._blocks(self.value(states_BND)) / total_BAK1
        new_BAKC: Tensor = keep_BAK1 * memory_BAKC + (1 - keep_BAK1) * mean_BAKC
        return new_BAKC.transpose(1, 2).flatten(2)

    def read_out(self, memory: MemoryState) -> MemoryState:
        """What the slots find in all blocks together; see :meth:`ExternalMemory.read_out`."""
        slots_BKD = torch.where(memory.mask_BK[..., None], memory.slots_BKD.float(), 0.0)
        memory_BAKC = self._blocks(slots_BKD)
        found_BAKC = _weights(self._blocks(self.query(slots_BKD)), memory_BAKC, memory.mask_BK) @ memory_BAKC
        gate_BAK1 = self.gate(slots_BKD).softmax(-1).transpose(1, 2)[..., None]
        read_BKD = torch.einsum("bakc,acd->bkd", gate_BAK1 * found_BAKC, self.lift_ACD)
        return MemoryState(read_BKD, memory.lengths_B, memory.ratio)

    def _blocks(self, states_BND: Tensor) -> Tensor:
        return states_BND.reshape(*states_BND.shape[:2], self.blocks, -1).transpose(1, 2)


def _weights(asking_BANC: Tensor, memory_BAKC: Tensor, mask_BK: Tensor) -> Tensor:
    """Where in each block something goes or is found, by content: ``BANK``, 1 in sum over the slots of a row."""
    # A row without a slot would choose among nothing; what it chooses is dropped.
    among_BK = mask_BK | (torch.arange(mask_BK.shape[1], device=mask_BK.device) == 0)
    score_BANK = asking_BANC @ memory_BAKC.transpose(2, 3) / memory_BAKC.shape[-1] ** 0.5
    weights_BANK: Tensor = score_BANK.masked_fill(~among_BK[:, None, None], -torch.inf).softmax(-1)
    return weights_BANK
