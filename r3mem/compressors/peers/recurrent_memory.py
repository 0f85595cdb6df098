"""The Recurrent Memory Transformer: memory tokens in front of a segment and behind it (Bulatov et al., 2207.06881).

Shape legend: B batch, K virtual tokens, S learned vectors, P prefix states, D width.

Two segments; ``out`` is the model's output at the write slots::

    [M_0 ; x_1 ; M_0] -> out = M_1
    [M_1 ; x_2 ; M_1] -> out = M_2
"""

from __future__ import annotations

from r3mem.backbone import Backbone
from r3mem.compressors.base import Written
from r3mem.compressors.parts.appended_slots import AppendedSlots
from r3mem.compressors.parts.learned_slots import held_slots
from r3mem.compressors.parts.soft_prompt import soft_prompt
from r3mem.memory import MemoryState, Segments


class RecurrentMemory(AppendedSlots):
    """One memory stands in front of a segment, to be read, and behind it, to be overwritten (2207.06881, section 3).

    A text begins with the learned ``M_0`` in both places. Positions run on from the memory through the segment to the
    write slots. The published models have decoders with a causal mask over all of it, and so has this one: text reads
    the memory, write slots read the memory, the text and the write slots before them.

    Where this differs from the paper:

    - The number of memory tokens follows the segment: ``K = ceil(N / ratio)``. Where a segment needs more write slots
      than the memory has, the rest start from ``M_0``.
    - The paper trains a Transformer-XL, with positions relative to the query and an output behind a norm; here the
      backbone's own positions count, and its output is taken behind its final norm. What is trained of it are its
      adapters.
    - A text that is only read, with nothing remembered, is read without ``M_0``: elsewhere an empty memory is nothing.
    - Between write and read stands the stack. With an exact share, its part of each memory token carries words.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        slots: S, vectors of ``M_0``; the longest segment needs its number of tokens divided by the ratio.
    """

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`."""
        mask_BK = self.slot_mask(text)
        held_BPD, held_BP = held_slots(self.initial(text), mask_BK, memory)
        return self.write(backbone, text, soft_prompt(held_BPD, held_BP), held_BPD[:, : mask_BK.shape[1]], logits)
