"""A coupling that moves nothing: what a memory is without words in it.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

from torch import Tensor

from r3mem.memory import slots_needed
from r3mem.reversible.base import Coupling


class IdentityCoupling(Coupling):
    """Leaves the slots as the compressor wrote them, as peers and controls do.

    Nothing of the text can be read off such a memory. `R3Mem.recall` is exact all the same, by corrections alone: every
    token is one, so that the text is stored beside the memory, at the price of a text.

    Args:
        ratio: Text tokens per virtual token.
    """

    def __init__(self, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio

    def to_memory(self, text_BND: Tensor, lengths_B: Tensor) -> Tensor:
        """Nothing; see :meth:`Coupling.to_memory`."""
        return text_BND.new_zeros(len(text_BND), slots_needed(text_BND.shape[1], self.ratio), text_BND.shape[2])

    def to_text(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> Tensor:
        """Nothing; see :meth:`Coupling.to_text`."""
        return memory_BKD.new_zeros(len(memory_BKD), n_tokens, memory_BKD.shape[2])

    def at_ratio(self, ratio: int) -> IdentityCoupling:
        """The same for any ratio."""
        return IdentityCoupling(ratio)
