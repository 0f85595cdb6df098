"""Cross-attention whose queries are positions alone.

Shape legend: B batch, Q queries, S source positions, D width, A inner width of the adapter, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import check_whole
from r3mem.memory import slots_needed
from r3mem.memory.masks import keep_where, slot_mask, token_mask
from r3mem.reversible.couplings.stream_layers import StreamLinear, StreamNorm
from r3mem.reversible.full_precision import at_least_float32


class PositionalAttention(nn.Module):
    """Adapter in which a position asks and one stream answers.

    The queries know no content: a coupling's F may read the text alone, so that a slot that asks for text cannot ask
    with what it holds, and likewise for G. The output projection is zero at the start.
    """

    def __init__(self, width: int, dim: int, heads: int, dropout: float = 0.0, local: bool = True) -> None:
        """Build the adapter.

        Args:
            width: D of the streams.
            dim: A, all heads together.
            heads: H.
            dropout: Of the attention weights, in training.
            local: Lower the scores of far positions: by 4, 1, 1/4, .. times the distance in slots in the first, second,
                third, .. head. The last of several heads sees all positions alike.

        Raises:
            ConfigError: A dim that is odd or that the heads do not divide, or a dropout outside [0, 1).
        """
        super().__init__()
        check_whole(width=width, dim=dim, heads=heads)
        if width < 1 or dim < 2 or heads < 1 or dim % 2 or dim % heads:
            raise ConfigError(
                f"dim must be an even multiple of heads, and width at least 1, got width {width}, dim {dim}, "
                f"heads {heads}: for example dim {2 * max(heads, 1) * 8}"
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.dim, self.heads, self.dropout, self.local = dim, heads, dropout, local
        self.norm = StreamNorm(width)
        self.down = StreamLinear(width, dim, bias=False)
        self.query = StreamLinear(dim, dim, bias=False)
        self.key_value = StreamLinear(dim, 2 * dim, bias=False)
        self.up = StreamLinear(dim, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(
        self,
        source_BSD: Tensor,
        seen_BS: Tensor,
        source_at_S: Tensor,
        wanted_BQ: Tensor,
        query_at_Q: Tensor,
        unit: float,
    ) -> Tensor:
        """Let each wanted position read the source.

        ```
                       source positions
                       s s s s . .        s seen, . beyond the length
        queries   q    # # # # . .
                  q    # # # # . .        # attends
                  -    0 0 0 0 0 0        - not wanted: exactly 0
        ```

        Args:
            source_BSD: The stream that is read.
            seen_BS: True where it may be read. A row without any gets zeros.
            source_at_S: Position of each source vector, in text tokens.
            wanted_BQ: True where an answer is wanted; elsewhere it is exactly 0.
            query_at_Q: Position of each query, in text tokens.
            unit: Length that counts as a distance of 1, in text tokens: the ratio.

        Returns:
            ``answer_BQD``.
        """
        batch, n_source, _ = source_BSD.shape
        head_dim = self.dim // self.heads
        source_BSD = keep_where(seen_BS, source_BSD)
        source_BSA = self.down(self.norm(source_BSD)) + sinusoids(source_at_S, self.dim).to(source_BSD.dtype)
        key_value = self.key_value(source_BSA).view(batch, n_source, 2, self.heads, head_dim)
        key_BHSA, value_BHSA = key_value.permute(2, 0, 3, 1, 4)
        query_QA = self.query(sinusoids(query_at_Q, self.dim).to(source_BSD.dtype))
        query_BHQA = query_QA.view(-1, self.heads, head_dim).transpose(0, 1).expand(batch, -1, -1, -1)
        answer_BHQA = F.scaled_dot_product_attention(
            query_BHQA,
            key_BHSA,
            value_BHSA,
            attn_mask=self._scores_to_add(seen_BS, source_at_S, query_at_Q, unit, source_BSD.dtype),
            dropout_p=self.dropout if self.training else 0.0,
        )
        answer_BQA = answer_BHQA.transpose(1, 2).reshape(batch, -1, self.dim)
        # Masked after the last map: a row of length 0 has read a placeholder, see _scores_to_add.
        return keep_where(wanted_BQ & seen_BS.any(dim=1, keepdim=True), self.up(answer_BQA))

    def slots_read(self, text_BND: Tensor, lengths_B: Tensor, ratio: int) -> Tensor:
        """Let each slot read its row's text: F of a coupling, see `Coupling.to_memory`.

        Args:
            text_BND: Token representations.
            lengths_B: Tokens of each row.
            ratio: Text tokens of a slot.

        Returns:
            ``BKD``, at least float32.
        """
        n_tokens = text_BND.shape[1]
        n_slots = slots_needed(n_tokens, ratio)
        memory_BKD: Tensor = self(
            at_least_float32(text_BND),
            token_mask(lengths_B, n_tokens),
            token_positions(n_tokens, text_BND.device),
            slot_mask(lengths_B, n_slots, ratio),
            slot_positions(n_slots, ratio, text_BND.device),
            unit=ratio,
        )
        return memory_BKD

    def _scores_to_add(
        self, seen_BS: Tensor, source_at_S: Tensor, query_at_Q: Tensor, unit: float, dtype: torch.dtype
    ) -> Tensor:
        # A softmax over nothing is NaN, also in the gradient (torch 2.4; later ones give 0): a row without a source
        # sees its first vector, which is 0.
        nothing_B1 = ~seen_BS.any(dim=1, keepdim=True)
        seen_BS = torch.cat([seen_BS[:, :1] | nothing_B1, seen_BS[:, 1:]], dim=1)
        distance_QS = (query_at_Q[:, None] - source_at_S[None, :]).abs() / unit
        slopes = [4.0 ** (1 - head) if self.local else 0.0 for head in range(self.heads)]
        if self.heads > 1:
            slopes[-1] = 0.0
        bias_HQS = -torch.tensor(slopes, device=distance_QS.device)[:, None, None] * distance_QS
        return bias_HQS.to(dtype).masked_fill(~seen_BS[:, None, None, :], -math.inf)


def sinusoids(positions_S: Tensor, dim: int) -> Tensor:
    """Sines and cosines of positions at wavelengths from 2 pi to 20,000 pi tokens (Vaswani et al., 2017).

    Args:
        positions_S: Positions in text tokens, need not be whole.
        dim: Even number of columns.

    Returns:
        ``[S, dim]``, float32.
    """
    steps = torch.arange(dim // 2, device=positions_S.device, dtype=torch.float32)
    angles = positions_S.float()[:, None] * torch.exp(-math.log(10_000.0) * 2 * steps / dim)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def token_positions(n_tokens: int, device: torch.device) -> Tensor:
    """0, 1, .. N - 1."""
    return torch.arange(n_tokens, device=device, dtype=torch.float32)


def slot_positions(n_slots: int, ratio: int, device: torch.device) -> Tensor:
    """The middle of the tokens that each slot covers, in text tokens."""
    return torch.arange(n_slots, device=device, dtype=torch.float32) * ratio + (ratio - 1) / 2
