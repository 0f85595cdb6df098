"""Distillation from the backbone that reads the full text.

Shape legend: B batch, N text tokens, M tokens that count, D width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from r3mem.backbone.next_tokens import NextTokens, Scores, divergences, logits_of
from r3mem.memory import Segments
from r3mem.objectives.base import Term
from r3mem.objectives.context import Need, StepContext


class FullTextKL(Term):
    """Divergence from the frozen backbone that reads the full text of the batch instead of a memory."""

    name = "kl"
    needs = Need.SCORES | Need.TEACHER

    def forward(self, context: StepContext) -> tuple[Tensor, Tensor]:
        """``(sum, count)`` in nats, over tokens of rows with a memory."""
        return distillation(context.reading.scores, context.teacher, context.text, context.reading.rows_B)


def distillation(
    scores: Scores, teacher: Scores, text: Segments, rows_B: Tensor, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """Kullback-Leibler divergence of the student's next-token distribution from the teacher's.

    Args:
        scores: The student's logits ``BNV``, or what makes them.
        teacher: The teacher's at the same tokens.
        text: The text.
        rows_B: ``bool``; rows that count.
        chunk: Tokens at a time; log-probabilities over a whole vocabulary are large.

    Returns:
        ``(sum, count)`` as in :func:`forward_nll`.
    """
    keep_BN = text.mask_BN[:, 1:] & rows_B[:, None]
    if isinstance(scores, NextTokens) and isinstance(teacher, NextTokens):
        states_MD, teacher_MD = (of.states[:, :-1][keep_BN] for of in (scores, teacher))
        return divergences(states_MD, teacher_MD, scores.head.weight).sum(), keep_BN.sum()
    student_MV, teacher_MV = (logits_of(of)[:, :-1][keep_BN] for of in (scores, teacher))
    total = student_MV.new_zeros((), dtype=torch.float32)
    for student, taught in zip(torch.split(student_MV, chunk), torch.split(teacher_MV, chunk), strict=True):
        total = total + F.kl_div(
            student.float().log_softmax(-1), taught.float().log_softmax(-1), reduction="sum", log_target=True
        )
    return total, keep_BN.sum()
