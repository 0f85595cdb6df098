"""What is held out, and how likely it is behind what a reader sees of its history.

Shape legend: B batch, N text tokens.
"""

from __future__ import annotations

import torch

from benchmarks.compare.text.training import WINDOW, View, loss_of, remembered
from r3mem import InputError, R3Mem


def parted(texts: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """What is trained on, and what is held out: every fifth document, or the last fifth of a few long ones."""
    if len(texts) >= 5:
        return [ids for i, ids in enumerate(texts) if i % 5], texts[::5]
    cuts = [max(WINDOW, len(ids) * 4 // 5) for ids in texts]
    held = [ids[cut:] for ids, cut in zip(texts, cuts, strict=True)]
    if not any(len(ids) >= WINDOW for ids in held):
        raise InputError(f"too little text to hold some out: give at least {6 * WINDOW} tokens, or --train")
    return [ids[:cut] for ids, cut in zip(texts, cuts, strict=True)], held


@torch.no_grad()
def nll(model: R3Mem, view: View, windows: list[list[int]], batch: int = 8) -> float:
    """Mean NLL of the continuations, nats a token."""
    total = count = 0.0
    for i in range(0, len(windows), batch):
        ids_BN = torch.tensor(windows[i : i + batch], device=model.backbone.device)
        t, n = loss_of(model, view, ids_BN, remembered(model, view, ids_BN)[1])
        total, count = total + float(t), count + float(n)
    return total / count
