"""Mean pooling: the baseline that every learned compressor has to beat (2510.20797).

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.backbone.next_tokens import Scores
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.parts.hidden_state import HiddenStateCompressor
from r3mem.memory import Segments


class MeanPool(HiddenStateCompressor):
    """Each slot is the mean of the states of the tokens it covers."""

    def states(
        self, backbone: Backbone, text: Segments, prefix: Prefix | None, logits: bool
    ) -> tuple[Tensor, Scores | None]:
        """See :meth:`HiddenStateCompressor.states`."""
        out = backbone(text, prefix, capture=self.write_layer, logits=logits)
        return self.pool(out.text_BND, text), out.scores
