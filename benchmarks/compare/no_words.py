"""What stands between text and memory where a memory is to be read only: nothing.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

import torch

from r3mem.memory import slots_needed
from r3mem.reversible import Coupling


class NoWords(Coupling):
    """Leaves the slots as the compressor wrote them: an exact share of 0, from which nothing can be recalled."""

    def __init__(self, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio

    def to_memory(self, text_BND: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        """Nothing; see `Coupling.to_memory`."""
        return text_BND.new_zeros(len(text_BND), slots_needed(text_BND.shape[1], self.ratio), text_BND.shape[2])

    def to_text(self, memory_BKD: torch.Tensor, lengths_B: torch.Tensor, n_tokens: int) -> torch.Tensor:
        """Nothing; see `Coupling.to_text`."""
        return memory_BKD.new_zeros(len(memory_BKD), n_tokens, memory_BKD.shape[2])

    def at_ratio(self, ratio: int) -> NoWords:
        """As much at any ratio."""
        return NoWords(ratio)
