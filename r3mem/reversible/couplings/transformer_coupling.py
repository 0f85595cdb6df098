"""The two halves of a Transformer layer as a coupling.

Shape legend: B batch, N text tokens, K virtual tokens, D width, A inner width, I tokens of one slot (the ratio).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import check_whole
from r3mem.memory.masks import keep_where, slot_mask, token_mask
from r3mem.reversible.base import Coupling
from r3mem.reversible.couplings.positional_attention import PositionalAttention
from r3mem.reversible.couplings.stream_layers import StreamLinear, StreamNorm
from r3mem.reversible.full_precision import at_least_float32


class TransformerCoupling(Coupling):
    """A RevNet block over ``[slots ; text]``: attention as F, a feed-forward network as G.

    A literal reading of "reversible Transformer" (RevNet, 1707.04585; REDER, 2105.03458). Which sub-network is F or G
    in the published method is not known; what follows is our choice:

    - F: pre-norm multi-head attention from the slots to the text, without a preference for near tokens. In an ordinary
      layer the slots would ask with their own content; here they ask with their position, since F must not read the
      stream that it changes.
    - G: pre-norm feed-forward network at every *token*, on the one slot that covers the token, with a learned vector
      for the token's place inside the slot. Nothing is mixed between slots: mixing is F's part.
    - Layer norms stand inside F and G, so that the streams themselves are never rescaled (gain 1).
    - Both output projections are zero at the start.
    """

    def __init__(
        self,
        width: int,
        ratio: int,
        dim: int = 256,
        heads: int = 4,
        hidden: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        """Build both halves.

        Args:
            width: D of the backbone.
            ratio: Text tokens per virtual token.
            dim: Inner width of the attention, all heads together.
            heads: Attention heads.
            hidden: A, inner width of the feed-forward network; None takes ``4 * dim``.
            dropout: Of the attention weights and of the feed-forward network's inner units, in training.

        Raises:
            ConfigError: Values that do not fit each other.
        """
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        check_whole(ratio=ratio, hidden=hidden)
        if ratio < 1 or hidden < 1:
            raise ConfigError(f"ratio and hidden must be at least 1, got {ratio} and {hidden}")
        self.width, self.ratio, self.dim, self.heads = width, ratio, dim, heads
        self.hidden, self.dropout = hidden, dropout
        self.attention = PositionalAttention(width, dim, heads, dropout, local=False)
        self.feed_forward = SlotFeedForward(width, ratio, hidden, dropout)

    def to_memory(self, text_BND: Tensor, lengths_B: Tensor) -> Tensor:
        """F: attention; see `Coupling.to_memory`."""
        return self.attention.slots_read(text_BND, lengths_B, self.ratio)

    def to_text(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> Tensor:
        """G: feed-forward; see `Coupling.to_text`."""
        covered_BK = slot_mask(lengths_B, memory_BKD.shape[1], self.ratio)
        text_BND = self.feed_forward(keep_where(covered_BK, at_least_float32(memory_BKD)))[:, :n_tokens]
        return keep_where(token_mask(lengths_B, n_tokens), text_BND)


class SlotFeedForward(nn.Module):
    """Two-layer network that turns one slot into the tokens that it covers."""

    def __init__(self, width: int, ratio: int, hidden: int, dropout: float) -> None:
        """Build the network.

        Args:
            width: D.
            ratio: I, tokens per slot.
            hidden: A.
            dropout: Of the inner units, in training.
        """
        super().__init__()
        self.dropout = dropout
        self.norm = StreamNorm(width)
        self.inner = StreamLinear(width, hidden)
        self.place_IA = nn.Parameter(torch.randn(ratio, hidden))
        self.outer = StreamLinear(hidden, width, bias=False)
        nn.init.zeros_(self.outer.weight)

    def forward(self, memory_BKD: Tensor) -> Tensor:
        """``memory_BKD -> text_BND`` with N = K * ratio."""
        inner_BKA = self.inner(self.norm(memory_BKD))
        inner_BKIA = F.gelu(inner_BKA[:, :, None, :] + self.place_IA.to(inner_BKA.dtype))
        inner_BKIA = F.dropout(inner_BKIA, self.dropout, self.training)
        text_BND: Tensor = self.outer(inner_BKIA).flatten(1, 2)
        return text_BND
