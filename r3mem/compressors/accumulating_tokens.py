"""Virtual memory tokens of all segments, one after the other, written by the backbone and read like its input.

Shape legend: B batch, K virtual tokens, D width.
"""

from __future__ import annotations

from typing import ClassVar

from r3mem.compressors.accumulation import accumulated
from r3mem.compressors.virtual_tokens import VirtualTokens
from r3mem.errors import ConfigError
from r3mem.memory import MemoryState


class AccumulatingTokens(VirtualTokens):
    """`VirtualTokens` that are kept: a segment reads the slots of all segments before it, up to a number.

    By default slots pass through all layers of the backbone and are read by all of them, and a slot is what was written
    alone, without the mean of what it covers. A small backbone that is trained whole needs the depth: it finds what it
    is asked for in such slots and misses it in means (docs/compare.md). What is kept grows with the history, as does
    the cost of reading it, until `most`.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        write_layer: Decoder layer whose input states become the slots; the number of layers is the last one's output.
        read_layer: Decoder layer at which a memory enters; 0 is the input embeddings.
        pooled: Share of the weighted mean in what is written, 0 to 1.
        most: Slots that a state holds at most; beyond it the oldest are dropped.
    """

    accumulates: ClassVar[bool] = True

    def __init__(
        self,
        width: int,
        ratio: int = 16,
        write_layer: int = 30,
        read_layer: int = 0,
        pooled: float = 0.0,
        most: int = 512,
    ) -> None:
        super().__init__(width, ratio, write_layer, read_layer, pooled)
        if most < 1:
            raise ConfigError(f"most {most} is not possible; a state holds at least 1 slot")
        self.most = most

    def next_state(self, before: MemoryState | None, written: MemoryState) -> MemoryState:
        """All that was written, up to ``most``; see :func:`accumulated`."""
        return accumulated(before, written, self.most)
