r"""Gist tokens: what follows them sees them and not what they stand behind (Mu et al., 2304.08467).

Shape legend: B batch, K virtual tokens, D width.

One pass over two segments would have this mask; ``g`` are gist tokens, rows are queries, columns keys::

           x_1  g_1  x_2  g_2
    x_1     \    .    .    .      \ causal inside
    g_1     #    \    .    .      # everything
    x_2     .    #    \    .
    g_2     .    #    #    \

Two passes, ``[x_1 ; g_1]`` and ``[g_1 ; x_2 ; g_2]`` with the keys and values of ``g_1`` from the first, are the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.compressors.base import Written
from r3mem.compressors.parts.key_value_slots import KeyValueSlots
from r3mem.memory import MemoryState, Segments


class GistTokens(KeyValueSlots):
    """One gist token, repeated behind a segment; its keys and values in all layers are the memory (2304.08467).

    One and the same adapted model writes and reads. The gist token starts as the mean of all embeddings.

    Where this differs from the paper:

    - The number of gist tokens follows the segment, ``K = ceil(N / ratio)``; the paper has 1 to 10 for a prompt of any
      length.
    - The paper compresses the instruction in front of one input. Here segments follow each other, each seeing the gist
      tokens of the one before; the state holds the last segment's.
    - The paper trains all weights of the model on instructions and their completions; here adapters are trained, and
      the texts are whatever the data module gives.
    - The paper masks one pass; here the text's keys and values are dropped between two, which is the same for decoders
      with rotary positions or none. Encoder-decoder models of the paper are not served.
    - Between write and read stands the stack. With an exact share, its part of each slot carries words.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
    """

    def __init__(self, width: int, ratio: int = 16) -> None:
        super().__init__(width, ratio)

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`."""
        return self.write(backbone, text, None if memory is None else self.read(memory), self.initial(text), logits)

    @torch.no_grad()
    def calibrate(self, backbone: Backbone, text: Segments, finish: Callable[[Tensor], Tensor]) -> float:
        """Start from the mean of all embeddings."""
        self.initial_SD.copy_(backbone.embedding_VD.float().mean(0, keepdim=True))
        return 1.0
