"""Pooling with a resolution that falls with age: what comes next depends most on what came last.

Shape legend: B batch, N text tokens, K virtual tokens, D width.

Twelve tokens in four slots (ratio 3), half of the slots for the newest tokens::

    tokens   0  1  2  3  4 | 5  6  7  8  9 | 10 | 11
    slot     0             | 1             | 2  | 3
"""

from __future__ import annotations

import torch
from torch import Tensor

from r3mem.compressors.hidden_state import without_sink
from r3mem.compressors.mean_pool import MeanPool
from r3mem.errors import ConfigError
from r3mem.memory import MemoryState, Segments, slots_needed


class RecencyPool(MeanPool):
    """The newest tokens have a slot each, the older ones share the slots that are left, in runs of about equal length.

    A memory is as large as at any other compressor of that ratio, and the words that a slot carries are still those of
    its own tokens: only what the reader sees is divided otherwise. Made for going on where a text ends; for questions
    about any part of it, take a compressor that treats all parts alike.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        write_layer: Decoder layer whose input states become the slots. Low layers are cheap, and a single token's
            state there says what the token is; they know nothing of earlier memories.
        read_layer: Decoder layer at which a memory enters.
        recent: Share of the slots for single tokens, 0 to 1.
    """

    def __init__(
        self, width: int, ratio: int = 16, write_layer: int = 1, read_layer: int = 1, recent: float = 0.75
    ) -> None:
        super().__init__(width, ratio, write_layer, read_layer)
        if not 0 <= recent <= 1:
            raise ConfigError(f"recent {recent} is not a share; give a number from 0 to 1")
        self.recent = recent

    def pool(self, states_BND: Tensor, text: Segments) -> Tensor:
        """See :meth:`HiddenStateCompressor.pool`."""
        n_text = states_BND.shape[1]
        n_slots = slots_needed(n_text, self.ratio)
        stands_BKN = self._stands(text.lengths_B, n_text, n_slots, self.ratio) * without_sink(text)[:, None]
        total_BK1 = stands_BKN.sum(2, keepdim=True).clamp(min=1e-6)
        pooled_BKD: Tensor = stands_BKN @ states_BND.float() / total_BK1
        return pooled_BKD

    def positions(self, memory: MemoryState) -> Tensor:
        """See :meth:`HiddenStateCompressor.positions`."""
        n_slots = memory.slots_BKD.shape[1]
        n_text = n_slots * memory.ratio
        stands_BKN = self._stands(memory.lengths_B, n_text, n_slots, memory.ratio)
        place_N = torch.arange(n_text, device=stands_BKN.device, dtype=stands_BKN.dtype)
        return ((stands_BKN @ place_N) / stands_BKN.sum(2).clamp(min=1)).long()

    def _stands(self, lengths_B: Tensor, n_text: int, n_slots: int, ratio: int) -> Tensor:
        """1 where a slot stands for a token, ``float BKN``; every token of a row has exactly one slot, in order."""
        slots_B1 = ((lengths_B + ratio - 1) // ratio)[:, None]
        # One slot at least is left for what is older.
        single_B1 = torch.minimum((slots_B1 * self.recent).long(), slots_B1 - 1).clamp(min=0)
        single_B1 = torch.where(lengths_B[:, None] <= slots_B1, lengths_B[:, None] - 1, single_B1).clamp(min=0)
        older_B1, shared_B1 = lengths_B[:, None] - single_B1, slots_B1 - single_B1
        place_N = torch.arange(n_text, device=lengths_B.device)
        slot_BN = torch.where(
            place_N < older_B1,
            place_N * shared_B1 // older_B1.clamp(min=1),
            shared_B1 + place_N - older_B1,
        )
        slot_BN = torch.where(place_N < lengths_B[:, None], slot_BN, -1)
        return (slot_BN[:, None] == torch.arange(n_slots, device=lengths_B.device)[:, None]).float()
