"""500xCompressor: adapters write keys and values, the frozen model reads them (Li et al., 2408.03094).

Shape legend: B batch, K virtual tokens, S learned vectors, P prefix positions, D width.

Three passes; ``m`` are learned vectors, ``M`` their keys and values in all layers::

    adapters on    [x_t ; m]                 write M_t
    adapters off   [M_t ; x_t+1]             read what follows
    adapters off   [M_t ; BOS ; x_t]         reconstruct the text itself
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.base import Written
from r3mem.compressors.parts.frozen_reader import FrozenReader
from r3mem.compressors.parts.key_value_slots import KeyValueSlots
from r3mem.errors import ConfigError
from r3mem.memory import MemoryState, Segments


class FiveHundredXCompressor(FrozenReader, KeyValueSlots):
    """A LoRA encoder writes, the same model without its adapters reads keys and values in every layer (2408.03094).

    The encoder reads the segment alone. Regeneration begins with the model's own token of the beginning, nothing is
    learned for it. Objectives of the paper: regeneration (the objective's ``Autoencode``), then question answering
    (``expand``, with a data module of questions); the continuation of the text (``forward``) is trained beside it here.

    Adapters of the last layer other than those of its keys and values change nothing that is kept, and stay as they
    are.

    Where this differs from the paper:

    - The number of memory tokens follows the segment, ``K = ceil(N / ratio)``; the paper has 1 to 16 for up to 480
      tokens.
    - Keys are turned to the positions 0 to k - 1, and the text behind begins at k.
    - The likelihood of a text's first token is not counted, as nowhere here.
    - Where the tokenizer has no token of the beginning, that of the end is taken.
    - A state holds the last segment.
    - Between write and read stands the stack. With an exact share, its part of each slot carries words.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        slots: S, learned vectors; the longest segment needs its number of tokens divided by the ratio.
    """

    begin_D: Tensor

    def __init__(self, width: int, ratio: int = 16, slots: int = 128) -> None:
        super().__init__(width, ratio, slots)
        # Kept from the first pass on: to reconstruct a memory, a compressor has no backbone at hand.
        self.register_buffer("begin_D", torch.zeros(width))

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`."""
        self._keep_begin(backbone)
        return super().forward(backbone, text, memory, logits)

    def read_to_reconstruct(self, memory: MemoryState) -> Prefix:
        """The slots and the token of the beginning right behind; see :meth:`Compressor.read_to_reconstruct`."""
        prefix, holds_B1 = self.read(memory), (memory.lengths_B > 0)[:, None]
        return Prefix(
            states_BPD=self.begin_D.expand(len(holds_B1), 1, -1),
            mask_BP=torch.cat([prefix.mask_BP, holds_B1], 1),
            positions_BP=torch.cat([prefix.positions_BP, prefix.start_B[:, None]], 1),
            start_B=prefix.start_B + holds_B1[:, 0],
            key_values_BMW=prefix.key_values_BMW,
        )

    @torch.no_grad()
    def calibrate(self, backbone: Backbone, text: Segments, finish: Callable[[Tensor], Tensor]) -> float:
        """Give the learned vectors the spread of the input embeddings."""
        self._keep_begin(backbone)
        return super().calibrate(backbone, text, finish)

    @torch.no_grad()
    def _keep_begin(self, backbone: Backbone) -> None:
        tokenizer = backbone.tokenizer
        begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if begin is None:
            raise ConfigError(
                f"the tokenizer of {backbone.name} has no token of a text's beginning or end, which calls for "
                "regeneration: give it one, or take InContextAutoencoder, which learns one"
            )
        self.begin_D.copy_(backbone.embedding_VD[begin])
