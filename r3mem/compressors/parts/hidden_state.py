"""What compressors share whose virtual tokens are hidden states of the backbone's own layers.

Shape legend: B batch, N text tokens, K virtual tokens, D width, M samples.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.backbone.next_tokens import Scores
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.base import Compressor, Written, mean_by_slot
from r3mem.compressors.parts.reader import MemoryReader
from r3mem.compressors.parts.writer import SlotWriter
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import check_whole
from r3mem.memory import MemoryState, Segments


class HiddenStateCompressor(Compressor):
    """Slots are states that enter ``write_layer``; they are read at ``read_layer``.

    With ``read_layer`` below ``write_layer`` what is written has already read the memory before it, so a memory carries
    on what earlier memories held; at or above, each memory holds its own segment alone.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        write_layer: Decoder layer whose input states become the slots, 1 to the number of layers.
        read_layer: Decoder layer at which a memory enters; 0 is the input embeddings.
    """

    def __init__(self, width: int, ratio: int = 16, write_layer: int = 12, read_layer: int = 4) -> None:
        super().__init__(ratio)
        check_whole(write_layer=write_layer, read_layer=read_layer)
        if write_layer < 1:
            raise ConfigError(f"write_layer {write_layer} is not possible: the first layer's output is 1")
        if read_layer < 0:
            raise ConfigError(f"read_layer {read_layer} is not possible: 0 is the input embeddings")
        self.width, self.write_layer, self.read_layer = width, write_layer, read_layer
        self.writer = SlotWriter(width)
        self.reader = MemoryReader(width, read_layer)

    @property
    def recurrent(self) -> bool:
        """See :attr:`Compressor.recurrent`: states below the layer where a memory enters know nothing of it."""
        return self.write_layer > self.read_layer

    @abstractmethod
    def states(
        self, backbone: Backbone, text: Segments, prefix: Prefix | None, logits: bool
    ) -> tuple[Tensor, Scores | None]:
        """Raw states ``BKD`` of the slots at ``write_layer``, and the scores of the same pass."""

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`."""
        prefix = None if memory is None else self.read(memory)
        states_BKD, scores = self.states(backbone, text, prefix, logits)
        return Written(self.writer(states_BKD, self.slot_mask(text)), scores)

    def read(self, memory: MemoryState) -> Prefix:
        """See :meth:`Compressor.read`."""
        prefix: Prefix = self.reader(memory, self.positions(memory))
        return prefix

    def pool(self, states_BND: Tensor, text: Segments) -> Tensor:
        """Mean state ``BKD`` of the tokens that each slot stands for, the attention sink left out."""
        return mean_by_slot(states_BND, without_sink(text), self.ratio)

    def positions(self, memory: MemoryState) -> Tensor:
        """Where each slot stands among the tokens of its text: ``BK``, ``long``, the centre of what it stands for."""
        slots_BKD = memory.slots_BKD
        centre_K = torch.arange(slots_BKD.shape[1], device=slots_BKD.device) * memory.ratio + (memory.ratio - 1) // 2
        return centre_K.expand(len(slots_BKD), -1)

    @torch.no_grad()
    def calibrate(self, backbone: Backbone, text: Segments, finish: Callable[[Tensor], Tensor]) -> float:
        """Fit the writer's units and the reader's map on sample text; returns the reader's explained variance."""
        states_BKD, _ = self.states(backbone, text, None, logits=False)
        mask_BK = self.slot_mask(text)
        self.writer.fit(states_BKD[mask_BK])
        if self.read_layer == 0:
            text_BND = backbone.embed(text.ids_BN).float()
        else:
            captured_BND = backbone(text, capture=self.read_layer, logits=False).text_BND
            assert captured_BND is not None
            text_BND = captured_BND.float()
        targets_BKD = self.pool(text_BND, text)
        anchor_D = text_BND[text.lengths_B > 0, 0].mean(0)
        return self.reader.fit(finish(self.writer(states_BKD, mask_BK))[mask_BK], targets_BKD[mask_BK], anchor_D)


def without_sink(text: Segments) -> Tensor:
    """Weights ``BN`` of tokens in a mean: 1, but 0 for padding and for the first token where there are others.

    The first position is the backbone's attention sink: its state has a norm far above all others and says nothing of
    the token that stands there.
    """
    weight_BN = text.mask_BN.float()
    weight_BN[:, 0] *= (text.lengths_B == 1).float()
    return weight_BN
