"""Likelihoods of texts, in nats: what most terms are made of, and what evaluations measure.

Shape legend: B batch, N text tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r3mem.backbone import Pass
from r3mem.backbone.next_tokens import Scores, counted_nats, nats
from r3mem.memory import Segments


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


def reconstruction_nll(made: Pass, text: Segments) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of each text reconstructed from its own memory, its first token included.

    Args:
        made: The backbone's pass over the text behind the memory. Where the memory's prefix has no state, nothing
            predicts the first token, and it does not count.
        text: The text.

    Returns:
        ``(sum, count)`` as in :func:`forward_nll`.
    """
    assert made.scores is not None
    total, count = forward_nll(made.scores, text, text.lengths_B > 0)
    if made.opening is None:
        return total, count
    counted_B = text.lengths_B > 0
    return total + counted_nats(made.opening, counted_B, text.ids_BN[counted_B, 0]).sum(), count + counted_B.sum()


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
