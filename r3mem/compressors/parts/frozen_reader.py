"""What compressors share whose adapters write and whose reader is the untouched model.

Shape legend: B batch, N text tokens, V vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from r3mem.backbone import Backbone
from r3mem.compressors.base import Written
from r3mem.compressors.parts.appended_slots import AppendedSlots
from r3mem.memory import MemoryState, Segments


class FrozenReader(AppendedSlots):
    """The encoder reads its segment alone, with adapters; memories are read without them. See `AppendedSlots`."""

    @property
    def recurrent(self) -> bool:
        """See :attr:`Compressor.recurrent`."""
        return False

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`; the likelihood takes a pass of its own."""
        written = self.write(backbone, text, None, self.initial(text), logits=False)
        if logits:
            with self.reading(backbone):
                written.scores = backbone(text, None if memory is None else self.read(memory)).scores
        return written

    def reading(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Without adapters; see :meth:`Compressor.reading`."""
        return backbone.adapters_off()
