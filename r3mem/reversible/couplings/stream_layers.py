"""Layers whose weights follow the precision of the stream, instead of the other way round."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class StreamLinear(nn.Linear):
    """A linear map that casts its weight to the input's precision.

    Trainers may hold all parameters in bfloat16; the streams stay float32, or the inverse would not be one.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in] -> [..., out]``."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class StreamNorm(nn.LayerNorm):
    """Layer norm that casts its weight to the input's precision."""

    def forward(self, input: Tensor) -> Tensor:
        """``[..., D] -> [..., D]``."""
        return F.layer_norm(
            input, self.normalized_shape, self.weight.to(input.dtype), self.bias.to(input.dtype), self.eps
        )
