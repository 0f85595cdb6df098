"""Batches of streams: the segments of each row one by one, and its whole text at once.

Shape legend: B rows, T segments a batch, N tokens a segment, M = T * N tokens of a row, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r3mem.backbone.next_tokens import NextTokens, Scores
from r3mem.memory import Segments


def segments_of(batch: dict[str, Tensor]) -> list[Segments]:
    """The T segments of a batch, each of all rows."""
    return [Segments(batch["ids_BTN"][:, t], batch["lengths_BT"][:, t]) for t in range(batch["ids_BTN"].shape[1])]


def whole_text(batch: dict[str, Tensor]) -> Segments:
    """The text of each row, segment behind segment, M tokens wide; padding stands at the end only."""
    ids_BTN, lengths_BT = batch["ids_BTN"], batch["lengths_BT"]
    place_N = torch.arange(ids_BTN.shape[2], device=ids_BTN.device)
    padding_BM = (place_N >= lengths_BT[..., None]).flatten(1)
    # A stable order leaves the tokens as they stand and moves all padding behind them.
    order_BM = padding_BM.long().argsort(dim=1, stable=True)
    return Segments(ids_BTN.flatten(1).gather(1, order_BM), lengths_BT.sum(1))


def at_segments(scores: Scores, batch: dict[str, Tensor]) -> list[Scores]:
    """Scores at each of the T segments, taken from those at :func:`whole_text`."""
    if isinstance(scores, NextTokens):
        return [NextTokens(states_BND, scores.head) for states_BND in _at_segments(scores.states, batch)]
    return list(_at_segments(scores, batch))


def _at_segments(of_BMX: Tensor, batch: dict[str, Tensor]) -> list[Tensor]:
    lengths_BT, n_tokens = batch["lengths_BT"], batch["ids_BTN"].shape[2]
    follows_BT = lengths_BT[:, 1:] > 0
    if not bool((follows_BT & (lengths_BT[:, :-1] < n_tokens)).any()):
        return list(of_BMX.split(n_tokens, 1))  # Nothing stands elsewhere than in the batch: no copy.
    start_BT = lengths_BT.cumsum(1) - lengths_BT
    place_N = torch.arange(n_tokens, device=lengths_BT.device)
    row_B1 = torch.arange(len(lengths_BT), device=lengths_BT.device)[:, None]
    last = of_BMX.shape[1] - 1
    return [of_BMX[row_B1, (start_B[:, None] + place_N).clamp(max=last)] for start_B in start_BT.unbind(1)]
