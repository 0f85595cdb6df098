"""A text behind a prefix that a backbone reads token by token, keys and values of what it has read kept.

Shape legend: B batch, P prefix, S positions read so far, V vocabulary.

::

    opening()     [prefix]                 -> logits of token 0
    after(ids)    [prefix] token 0         -> logits of token 1      one pass over one token
    after(ids)    [prefix] token 0, 1      -> logits of token 2
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from r3mem.backbone.backbone import Backbone
from r3mem.backbone.generation import generating, with_room
from r3mem.backbone.prefix import Prefix


class Stepwise:
    """One reading, from the prefix on.

    transformers' ``generate`` chooses the tokens itself, ends at an end mark and demands a prompt. Here the caller
    chooses, any token may come, and the text begins right behind the prefix.

    Args:
        backbone: The language model; adapters are as they are at each step.
        prefix: What stands in front of the text.
    """

    def __init__(self, backbone: Backbone, prefix: Prefix) -> None:
        self.backbone, self.prefix = backbone, prefix
        self._cache = DynamicCache()

    def opening(self) -> Tensor | None:
        """Next-token logits ``BV`` behind the prefix's last state in use; None where the prefix has no states."""
        states_BPD = self.prefix.states_BPD
        if not states_BPD.shape[1]:
            return None
        none_B0D = states_BPD.new_zeros(len(states_BPD), 0, states_BPD.shape[2]).to(self.backbone.embedding_VD.dtype)
        logits_BPV = self._pass(inputs_embeds=with_room(self.prefix, none_B0D))
        return logits_BPV[torch.arange(len(logits_BPV), device=logits_BPV.device), self.prefix.last_B]

    def after(self, ids_B: Tensor) -> Tensor:
        """Next-token logits ``BV`` behind one more token of each row."""
        if self._cache.get_seq_length() or not self.prefix.n_positions:
            return self._pass(input_ids=ids_B[:, None])[:, -1]
        return self._pass(inputs_embeds=with_room(self.prefix, self.backbone.embed(ids_B[:, None])))[:, -1]

    @torch.no_grad()
    def _pass(self, **inputs: Tensor) -> Tensor:
        backbone = self.backbone
        with (
            generating(backbone, self.prefix, self.prefix.mask_BP[:, :0]),
            torch.autocast(backbone.device.type, dtype=backbone.compute, enabled=backbone.compute != torch.float32),
        ):
            out = backbone.base(**inputs, past_key_values=self._cache, use_cache=True)
        logits_BSV: Tensor = out.logits
        return logits_BSV
