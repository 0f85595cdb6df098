"""Virtual memory tokens written by the backbone itself: read tokens before a segment, write slots behind it.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from r3mem.backbone import Backbone
from r3mem.backbone.next_tokens import Scores
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.base import mean_by_slot
from r3mem.compressors.parts.hidden_state import HiddenStateCompressor, without_sink
from r3mem.errors import ConfigError
from r3mem.memory import Segments


class VirtualTokens(HiddenStateCompressor):
    """Write slots that attend to the memory and to the whole segment (docs/method.md; recurrence as in 2207.06881).

    A slot starts as the mean of the embeddings it covers plus a learned vector, and stands at the position of their
    centre. ``pooled`` mixes in a weighted mean of the covered tokens' states at the write layer: a start that can be
    read at once, from which the slots learn what the mean cannot hold. The weights are a softmax of a learned score,
    equal at the start, so that a slot can come to stand for its most telling token.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        write_layer: Decoder layer whose input states become the slots.
        read_layer: Decoder layer at which a memory enters.
        pooled: Share of the weighted mean in what is written, 0 to 1.
    """

    def __init__(
        self, width: int, ratio: int = 16, write_layer: int = 12, read_layer: int = 4, pooled: float = 0.5
    ) -> None:
        super().__init__(width, ratio, write_layer, read_layer)
        if not 0 <= pooled <= 1:
            raise ConfigError(f"pooled {pooled} is not a share; give a number from 0 to 1")
        self.pooled = pooled
        self.write_D = nn.Parameter(torch.zeros(width))
        self.score_D = nn.Parameter(torch.zeros(width))

    def states(
        self, backbone: Backbone, text: Segments, prefix: Prefix | None, logits: bool
    ) -> tuple[Tensor, Scores | None]:
        """See :meth:`HiddenStateCompressor.states`."""
        embedded_BND = backbone.embed(torch.where(text.mask_BN, text.ids_BN, 0))
        slots_BKD = mean_by_slot(embedded_BND, text.mask_BN, self.ratio) + self.write_D
        mask_BK = self.slot_mask(text)
        positions_K = torch.arange(mask_BK.shape[1], device=mask_BK.device) * self.ratio + (self.ratio - 1) // 2
        out = backbone(
            text, prefix, slots_BKD, positions_K.expand_as(mask_BK), mask_BK, capture=self.write_layer, logits=logits
        )
        written_BKD = out.slots_BKD.float()
        score_BN = self._score(out.text_BND)
        pooled_BKD = mean_by_slot(out.text_BND, without_sink(text) * score_BN.exp(), self.ratio)
        return written_BKD.lerp(pooled_BKD, self.pooled), out.scores

    def _score(self, text_BND: Tensor) -> Tensor:
        """Score of each token within its slot, bounded so that its exponential is."""
        with torch.autocast(text_BND.device.type, enabled=False):
            standard_BND = (text_BND.float() - self.writer.centre_D) / self.writer.scale_D
            return 10 * torch.tanh(standard_BND @ self.score_D / 10)
