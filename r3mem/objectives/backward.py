"""The words recalled from the memory alone.

Shape legend: B batch, K virtual tokens, M sampled tokens, S sampled rows of the vocabulary, C code dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r3mem.errors.whole_numbers import whole_setting
from r3mem.objectives.base import Term
from r3mem.objectives.context import Need, StepContext


class BackwardCE(Term):
    """Cross-entropy of the words recalled without residual, by distance to sampled rows of the vocabulary.

    Args:
        weight: See :class:`Term`.
        warmup_steps: See :class:`Term`.
        sampled: Wrong rows that every token is compared with.
        tokens: Most tokens of a segment of all rows that are scored.
    """

    name = "backward"
    needs = Need.MEMORY | Need.STREAMS

    def __init__(self, weight: float = 1.0, warmup_steps: int = 0, sampled: int = 4096, tokens: int = 1024) -> None:
        super().__init__(weight, warmup_steps)
        self.sampled, self.tokens = whole_setting(sampled, "sampled", 1), whole_setting(tokens, "tokens", 1)

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """``(sum, count)`` in nats over the sampled vocabulary."""
        codec, text = context.streams.codec, context.text
        codes_MC = codec.codes(context.state.slots_BKD, text.lengths_B, text.ids_BN.shape[1])[text.mask_BN]
        ids_M = text.ids_BN[text.mask_BN]
        if len(ids_M) > self.tokens:
            chosen_M = torch.randperm(len(ids_M), device=ids_M.device)[: self.tokens]
            codes_MC, ids_M = codes_MC[chosen_M], ids_M[chosen_M]
        table_VC = codec.table.table_VD if codec.binding is None else codec.binding.code_table(codec.table.table_VD)
        wrong_S = torch.randint(len(table_VC), (self.sampled,), device=ids_M.device)
        right_M1 = (codes_MC - table_VC[ids_M]).square().sum(1, keepdim=True)
        wrong_MS = torch.cdist(codes_MC, table_VC[wrong_S]).square()
        # A sample that happens to be the right token is no wrong row.
        wrong_MS = wrong_MS.masked_fill(wrong_S == ids_M[:, None], torch.inf)
        logits = -0.5 * torch.cat([right_M1, wrong_MS], 1)
        return -logits.log_softmax(1)[:, 0].sum(), torch.tensor(len(ids_M), device=ids_M.device)
