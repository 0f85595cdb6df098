"""A learned coupling of two small cross-attention adapters.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

from torch import Tensor

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory.masks import slot_mask, token_mask
from r3mem.reversible.base import Coupling
from r3mem.reversible.couplings.positional_attention import PositionalAttention, slot_positions, token_positions
from r3mem.reversible.full_precision import at_least_float32


class AttentionCoupling(Coupling):
    """F: slots read the text; G: tokens read the slots (docs/method.md, Retrieval).

    For ratios at which `PositionBinding` alone runs out of dimensions. Who asks is known by position only (the middle
    of a slot, the place of a token), because each function may read one stream alone. Both output projections are zero
    at the start: a new coupling changes nothing.
    """

    def __init__(self, width: int, ratio: int, dim: int = 64, heads: int = 4, dropout: float = 0.0) -> None:
        """Build both adapters.

        Args:
            width: D of the backbone.
            ratio: Text tokens per virtual token.
            dim: Inner width of each adapter, all heads together.
            heads: Heads of each adapter. All but the last prefer what is near.
            dropout: Of the attention weights, in training.

        Raises:
            ConfigError: Values that do not fit each other.
        """
        super().__init__()
        if whole_setting(ratio, "ratio") < 1:
            raise ConfigError(f"ratio must be at least 1, got {ratio}")
        self.width, self.ratio, self.dim, self.heads, self.dropout = width, ratio, dim, heads, dropout
        self.slots_read_text = PositionalAttention(width, dim, heads, dropout)
        self.tokens_read_slots = PositionalAttention(width, dim, heads, dropout)

    def to_memory(self, text_BND: Tensor, lengths_B: Tensor) -> Tensor:
        """F; see `Coupling.to_memory`."""
        return self.slots_read_text.slots_read(text_BND, lengths_B, self.ratio)

    def to_text(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> Tensor:
        """G; see `Coupling.to_text`."""
        n_slots = memory_BKD.shape[1]
        text_BND: Tensor = self.tokens_read_slots(
            at_least_float32(memory_BKD),
            slot_mask(lengths_B, n_slots, self.ratio),
            slot_positions(n_slots, self.ratio, memory_BKD.device),
            token_mask(lengths_B, n_tokens),
            token_positions(n_tokens, memory_BKD.device),
            unit=self.ratio,
        )
        return text_BND
