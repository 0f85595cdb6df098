"""What compressors share whose memory is the keys and values that attention has at vectors written into a pass.

Shape legend: B batch, K virtual tokens, S learned vectors, D width of the backbone, W numbers of one position's keys
and values in all layers.

A memory of k slots is read at positions 0 to k - 1, and the text behind it begins at k, wherever the slots were written
and of however many segments they are: keys are kept turned back (`r3mem.backbone.key_values`), so that only distances
count::

    written    x_0 ... x_n-1  s_0 ... s_k-1                  position of s_j: n + j
    read                      s_0 ... s_k-1  y_0  y_1 ...    position of s_j: j, of y_i: k + i

From one slot to the next, and from the slots to a text that follows them, the distance is that of one pass over all of
it. With learned positions, as GPT-2 has them, keys cannot be turned back: slots carry the positions they were written
at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.base import Written
from r3mem.compressors.parts.appended_slots import AppendedSlots
from r3mem.memory import MemoryState, Segments


def key_value_prefix(slots_BKW: Tensor, mask_BK: Tensor, width: int) -> Prefix:
    """Slots of keys and values as a prefix: slots in use stand at positions 0, 1, ..., the text right behind them.

    Args:
        slots_BKW: The slots.
        mask_BK: True where a slot is in use.
        width: D, width of the backbone.
    """
    return Prefix(
        states_BPD=slots_BKW.new_zeros(len(mask_BK), 0, width),
        mask_BP=mask_BK,
        positions_BP=(mask_BK.cumsum(1) - 1).clamp(min=0),
        start_B=mask_BK.sum(1),
        key_values_BMW=slots_BKW,
    )


class KeyValueSlots(AppendedSlots):
    """Slots are the keys and values of all layers at vectors in a pass; nothing is computed where they are read.

    A virtual token is W numbers and not D: 11,520 for SmolLM2-135M, 20 times its width. Two memories of equal bytes
    differ by that factor in their slots, two of equal slots in their bytes. Its first D, which the words share where
    there is an exact share, are the keys and values of the last layers: there words disturb the reader least.

    What a layer reads of a memory changes the keys and values of the layers above alone. So of what a segment says, a
    state that holds only the last segment keeps something for as many segments as the backbone has layers, less one.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        slots: S, learned vectors; the longest segment needs its number of tokens divided by the ratio. None: one vector
            serves for all slots.
    """

    def __init__(self, width: int, ratio: int = 16, slots: int | None = None) -> None:
        super().__init__(width, ratio, 1 if slots is None else slots)
        self.one_for_all = slots is None

    def memory_width(self, backbone: Backbone) -> int:
        """W; see :meth:`Compressor.memory_width`."""
        return backbone.key_values.width

    def scale_group(self, backbone: Backbone) -> int:
        """One scale for each layer, head and kind; see :meth:`Compressor.scale_group`."""
        return backbone.key_values.head_width

    def initial(self, text: Segments) -> Tensor:
        """The learned vectors that a text uses, ``BKD``.

        Raises:
            InputError: The text needs more than there are.
        """
        if self.one_for_all:
            return self.initial_SD.expand(*self.slot_mask(text).shape, -1)
        return super().initial(text)

    def read(self, memory: MemoryState) -> Prefix:
        """See :meth:`Compressor.read`."""
        return key_value_prefix(memory.slots_BKD, memory.mask_BK, self.width)

    def write(
        self, backbone: Backbone, text: Segments, prefix: Prefix | None, start_BKD: Tensor, logits: bool,
        interleaved: bool = False,
    ) -> Written:  # fmt: skip
        """Run a text with vectors in it and take their keys and values.

        Args:
            backbone: The language model.
            text: The segments.
            prefix: What is read in front of them.
            start_BKD: Input embeddings of the write slots.
            logits: Whether the likelihood is needed.
            interleaved: Each slot stands behind the tokens that it stands for, not all behind the text.
        """
        mask_BK, slot_K = self.slot_mask(text), torch.arange(start_BKD.shape[1], device=start_BKD.device)
        out = backbone(
            text, prefix, start_BKD, text.lengths_B[:, None] + slot_K, mask_BK, logits=logits,
            slots_after_BK=self.slots_after(text) if interleaved else None, key_values=True,
        )  # fmt: skip
        assert out.key_values_BKW is not None
        return Written(out.key_values_BKW * mask_BK[..., None], out.scores)
