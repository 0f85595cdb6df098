"""What compressors share whose memory stands outside the model: read in front of a text, updated from its states.

Shape legend: B batch, N text tokens, K virtual tokens, S learned vectors, D width, M samples.

One segment::

    [read(M) ; x] -> states of x, behind the model's last norm
    M' = update(M, states of x)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.base import Compressor, Written
from r3mem.compressors.parts.hidden_state import without_sink
from r3mem.compressors.parts.learned_slots import check_learned, first_slots, held_slots
from r3mem.compressors.parts.reader import MemoryReader
from r3mem.compressors.parts.spread import centre_and_spread
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import MemoryState, Segments


class ExternalMemory(Compressor):
    """Slots that no position of the pass writes: a module of its own updates them from the text's states.

    A text that begins reads nothing; its slots start from learned vectors when they are first written. A segment writes
    its own ``K = ceil(N / ratio)`` slots: they go on from the first K of the memory, and from learned vectors where it
    has fewer. In front of the first slot stands an anchor, as in :class:`MemoryReader`.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        slots: S, learned vectors; the longest segment needs its number of tokens divided by the ratio.
        read_layer: Decoder layer at which a memory enters; 0 is the input embeddings.
    """

    def __init__(self, width: int, ratio: int, slots: int, read_layer: int) -> None:
        super().__init__(ratio)
        check_learned(slots)
        if whole_setting(read_layer, "read_layer") < 0:
            raise ConfigError(f"read_layer {read_layer} is not possible: 0 is the input embeddings")
        self.width, self.slots, self.read_layer = width, slots, read_layer
        self.reader = MemoryReader(width, read_layer)

    @property
    @abstractmethod
    def start_SD(self) -> Tensor:
        """Slots before anything was written."""

    @abstractmethod
    def update(self, slots_BKD: Tensor, slot_mask_BK: Tensor, states_BND: Tensor, mask_BN: Tensor) -> Tensor:
        """The memory after a segment, ``BKD``; what stands where no slot is does not matter.

        Args:
            slots_BKD: The memory before it.
            slot_mask_BK: Slots of the segment; a row may have none.
            states_BND: The model's output at the segment, read together with the memory.
            mask_BN: Tokens of the segment; a row may have none.
        """

    def read_out(self, memory: MemoryState) -> MemoryState:
        """What of a memory is read, slot by slot: the slots themselves, unless a subclass says otherwise."""
        return memory

    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """See :meth:`Compressor.forward`."""
        prefix = None if memory is None else self.read(memory)
        out = backbone(text, prefix, capture=backbone.output, logits=logits)
        assert out.text_BND is not None
        mask_BK = self.slot_mask(text)
        held_BPD, _ = held_slots(first_slots(self.start_SD, mask_BK, self.ratio), mask_BK, memory)
        with torch.autocast(held_BPD.device.type, enabled=False):
            held_BKD = held_BPD[:, : mask_BK.shape[1]].float()
            slots_BKD = self.update(held_BKD, mask_BK, out.text_BND.float(), text.mask_BN)
        return Written(slots_BKD * mask_BK[..., None], out.scores)

    def read(self, memory: MemoryState) -> Prefix:
        """See :meth:`Compressor.read`; slots stand at the centre of as many tokens as they are for."""
        with torch.autocast(memory.slots_BKD.device.type, enabled=False):
            found = self.read_out(memory)
        place_K = torch.arange(found.slots_BKD.shape[1], device=found.slots_BKD.device)
        centre_K = place_K * found.ratio + (found.ratio - 1) // 2
        prefix: Prefix = self.reader(found, centre_K.expand(len(found.slots_BKD), -1))
        return prefix

    @torch.no_grad()
    def calibrate(self, backbone: Backbone, text: Segments, finish: Callable[[Tensor], Tensor]) -> float:
        """Read slots as states that lie and spread as the layer's own do; what they say is left to training."""
        if self.read_layer == 0:
            states_BND = backbone.embed(text.ids_BN)
        else:
            states_BND = backbone(text, capture=self.read_layer, logits=False).text_BND
        centre_D, spread_D = centre_and_spread(states_BND[without_sink(text) > 0])
        written_BKD = finish(self(backbone, text, None, logits=False).slots_BKD)
        found_BKD = self.read_out(MemoryState(written_BKD, text.lengths_B, self.ratio)).slots_BKD
        found_MD = found_BKD[self.slot_mask(text)]
        scale = 1 / found_MD.sub(found_MD.mean(0)).square().mean().sqrt().clamp(min=1e-6)
        self.reader.scale_D.copy_(spread_D)
        self.reader.map_DD.copy_(scale * torch.eye(self.width, device=scale.device))
        self.reader.bias_D.copy_(centre_D / spread_D - scale * found_MD.mean(0))
        self.reader.anchor_D.copy_(states_BND[text.lengths_B > 0, 0].float().mean(0) / spread_D)
        return 1.0
