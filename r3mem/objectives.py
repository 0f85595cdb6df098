"""The terms of the training objective (docs/method.md); each is a mean over tokens or slots, in nats or squared units.

Shape legend: B batch, N text tokens, K virtual tokens, D width, V vocabulary, M sampled tokens, S sampled vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from r3mem.backbone import Pass
from r3mem.errors import ConfigError
from r3mem.memory import MemoryState, Segments
from r3mem.next_tokens import NextTokens, Scores, counted_nats, divergences, logits_of, nats
from r3mem.reversible.decoders import ExactText


@dataclass
class Term:
    """One term of the objective.

    Attributes:
        weight: Factor of the term; at 0 it is not computed.
        warmup_steps: Optimiser steps over which the weight rises from 0 in a line.
    """

    weight: float = 0.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.weight < 0 or self.warmup_steps < 0:
            raise ConfigError(f"weight {self.weight} and warmup_steps {self.warmup_steps} must not be negative")

    def at(self, step: int) -> float:
        """Weight at an optimiser step."""
        return self.weight * min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else self.weight


@dataclass
class Objective:
    """Which terms are trained, and how much each counts.

    Attributes:
        forward: Negative log-likelihood of a segment given the memory of what came before.
        autoencode: Negative log-likelihood of a segment given its own memory: the backbone spells it out (2307.06945).
        kl: Distillation: divergence from the frozen backbone that reads the full text of the batch instead.
        query: Compress direction: negative log-likelihood of a segment's query given its memory.
        expand: Expand direction: negative log-likelihood of a segment given its memory and its query.
        contrast: Negative log-probability that a query is of its own segment and not of another candidate's, by its
            likelihood given each one's memory.
        backward: Cross-entropy of the words recalled without residual, against sampled rows of the vocabulary.
        cycle: Distance of both streams from themselves after recall and retain.
        residual: Mean square of what the stack leaves in the text stream.
    """

    forward: Term = field(default_factory=lambda: Term(1.0))
    autoencode: Term = field(default_factory=Term)
    kl: Term = field(default_factory=Term)
    query: Term = field(default_factory=Term)
    expand: Term = field(default_factory=Term)
    contrast: Term = field(default_factory=Term)
    backward: Term = field(default_factory=Term)
    cycle: Term = field(default_factory=Term)
    residual: Term = field(default_factory=Term)

    def __post_init__(self) -> None:
        if not any(getattr(self, f.name).weight for f in fields(self)):
            raise ConfigError("every term of the objective has weight 0; give at least one a weight")

    def weights(self, step: int) -> dict[str, float]:
        """Weights of the terms that count, at an optimiser step."""
        return {f.name: getattr(self, f.name).at(step) for f in fields(self) if getattr(self, f.name).weight > 0}


def forward_nll(scores: Scores, text: Segments, rows_B: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each text after its first token.

    Args:
        scores: Next-token logits ``BNV`` at the text, or what makes them.
        text: The text.
        rows_B: ``bool``; rows that count.

    Returns:
        ``(sum, count)``: nats over all counted tokens, and their number.
    """
    targets_BN = text.ids_BN[:, 1:].masked_fill(~(text.mask_BN[:, 1:] & rows_B[:, None]), -100)
    return nats(scores, targets_BN).sum(), (targets_BN >= 0).sum()


def spelling_nll(spelt: Pass, text: Segments) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each text spelt out from its own memory, its first token included.

    Args:
        spelt: The backbone's pass over the text behind the memory. Where the memory's prefix has no state, nothing
            predicts the first token, and it does not count.
        text: The text.

    Returns:
        ``(sum, count)`` as in :func:`forward_nll`.
    """
    assert spelt.scores is not None
    total, count = forward_nll(spelt.scores, text, text.lengths_B > 0)
    if spelt.opening is None:
        return total, count
    counted_B = text.lengths_B > 0
    return total + counted_nats(spelt.opening, counted_B, text.ids_BN[counted_B, 0]).sum(), count + counted_B.sum()


def log_likelihood(scores: Scores, text: Segments, first: int | Tensor = 1, last_B: Tensor | None = None) -> Tensor:
    """Log-probability of each row's tokens.

    Args:
        scores: Next-token logits ``BNV`` at the text, or what makes them.
        text: The text.
        first: Position of the first token that counts, for all rows or ``B``; at least 1, nothing precedes token 0.
        last_B: One past the last token that counts; None for the end of each row.

    Returns:
        Nats, summed over tokens, ``B``; 0 for a row without a token that counts.
    """
    place_N = torch.arange(1, text.ids_BN.shape[1], device=text.ids_BN.device)
    first_B1 = first[:, None] if isinstance(first, Tensor) else first
    last_B1 = (text.lengths_B if last_B is None else last_B)[:, None]
    targets_BN = text.ids_BN[:, 1:].masked_fill(~((place_N >= first_B1) & (place_N < last_B1)), -100)
    return -nats(scores, targets_BN).sum(1)


def contrast(scores_BT: Tensor, relevant_BT: Tensor, candidate_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-probability of each relevant candidate among itself and those that are not relevant.

    Args:
        scores_BT: Log-likelihood of a query given each candidate's memory: a softmax over it is the posterior of a
            uniform choice.
        relevant_BT: ``bool``; candidates that answer the query.
        candidate_BT: ``bool``; False where nothing stands.

    Returns:
        ``(sum, count)`` in nats over the relevant candidates of rows that have others to tell them from.
    """
    wrong_BT = candidate_BT & ~relevant_BT
    against_B = scores_BT.masked_fill(~wrong_BT, -torch.inf).logsumexp(1)
    counts_BT = candidate_BT & relevant_BT & wrong_BT.any(1, keepdim=True)
    nats_BT = torch.logaddexp(scores_BT, against_B[:, None]) - scores_BT
    return torch.where(counts_BT, nats_BT, 0).sum(), counts_BT.sum()


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


def backward_ce(
    exact: ExactText, state: MemoryState, text: Segments, sampled: int = 4096, tokens: int = 1024
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the words recalled without residual, by distance to sampled rows of the vocabulary.

    Args:
        exact: Text side of the stack.
        state: The virtual tokens.
        text: What they were made of.
        sampled: Wrong rows that every token is compared with.
        tokens: Most tokens that are scored.

    Returns:
        ``(sum, count)`` in nats over the sampled vocabulary.
    """
    codes_MC = exact.codes(state.slots_BKD, text.lengths_B, text.ids_BN.shape[1])[text.mask_BN]
    ids_M = text.ids_BN[text.mask_BN]
    if len(ids_M) > tokens:
        chosen_M = torch.randperm(len(ids_M), device=ids_M.device)[:tokens]
        codes_MC, ids_M = codes_MC[chosen_M], ids_M[chosen_M]
    table_VC = exact.table.table_VD if exact.binding is None else exact.binding.code_table(exact.table.table_VD)
    wrong_S = torch.randint(len(table_VC), (sampled,), device=ids_M.device)
    right_M1 = (codes_MC - table_VC[ids_M]).square().sum(1, keepdim=True)
    wrong_MS = torch.cdist(codes_MC, table_VC[wrong_S]).square()
    # A sample that happens to be the right token is no wrong row.
    wrong_MS = wrong_MS.masked_fill(wrong_S == ids_M[:, None], torch.inf)
    logits = -0.5 * torch.cat([right_M1, wrong_MS], 1)
    return -logits.log_softmax(1)[:, 0].sum(), torch.tensor(len(ids_M), device=ids_M.device)


def cycle(exact: ExactText, state: MemoryState, slots_BKD: Tensor, text: Segments) -> tuple[Tensor, Tensor]:
    """``|V_0 - V_0 found by recall|^2 + |retain(recall(V)) - V|^2``, recall without residual.

    Args:
        exact: Text side of the stack.
        state: The virtual tokens ``V_S``.
        slots_BKD: ``V_0``.
        text: What they were made of.

    Returns:
        ``(sum over slots of the mean square per dimension, slots)``.
    """
    memory_BKD = state.slots_BKD[..., : slots_BKD.shape[-1]]
    text_BND, found_BKD = exact.stack.recall(memory_BKD, text.lengths_B, text.ids_BN.shape[1])
    _, again_BKD = exact.stack.retain(text_BND, found_BKD, text.lengths_B)
    error_BK = (found_BKD - slots_BKD).square().mean(-1) + (again_BKD - memory_BKD).square().mean(-1)
    return (error_BK * state.mask_BK).sum(), state.mask_BK.sum()


def residual(residual_BND: Tensor, text: Segments) -> tuple[Tensor, Tensor]:
    """Mean square of the residual: ``(sum over tokens of the mean square per dimension, tokens)``."""
    return (residual_BND.square().mean(-1) * text.mask_BN).sum(), text.mask_BN.sum()
