"""What a memory is worth to a reader.

256 tokens that follow 512 tokens of history are read with the history's memory. The retained gain is the
memory's share of what the full history is worth: 0 with nothing, 1 with all of it.

Shape legend: B batch, N text tokens.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.compare.methods import FULL_TEXT, weight_of
from benchmarks.compare.text.likelihood import nll
from benchmarks.compare.text.task import TextBudget, TextTask, memory_cost, share_of
from benchmarks.compare.text.training import HISTORY, RAW, WINDOW, View, trained, views_of
from benchmarks.parts.training import Cost
from r3mem import InputError, R3Mem, Segments
from r3mem.objectives import Autoencode


def train_retention(model: R3Mem, method: str, seed: int, budget: TextBudget, windows: list[list[int]]) -> Cost:
    """Likelihood of what follows a history, given its memory at each ratio in turn; of the reader, given raw tokens."""
    name, ratios = (RAW if method == FULL_TEXT else method), list(budget.ratios)
    views = views_of(RAW, ratios) if method == FULL_TEXT else [View(0, ratio) for ratio in ratios]
    # Spelling the history out is part of some methods: their files have a term for it.
    weight = 0.0
    if method != FULL_TEXT:
        weight = weight_of(method, Autoencode)
    return trained(name, windows, model, views, budget.train_tokens, budget.batch, budget.lr, seed, None, weight)


def retention_rows(
    model: R3Mem, method: str, budget: TextBudget, held: dict[str, list[list[int]]], reference: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Retained gain of each text at each ratio; the gain is that of the reader that was trained on raw tokens."""
    rows: list[dict[str, Any]] = []
    if method == FULL_TEXT:
        for text, windows in held.items():
            nothing, full = nll(model, View(0), windows), nll(model, View(HISTORY), windows)
            last = {str(ratio): nll(model, View(HISTORY // ratio), windows) for ratio in budget.ratios}
            rows.append({
                "text": text, "segments": 1, "ratio": 1, "positions": HISTORY,
                "bytes": 2 * HISTORY, "nll_nothing": nothing, "nll_memory": full,
                "nll_full": full, "nll_last_n": last, "retained_gain": 1.0, "retained_gain_n": len(windows),
            })  # fmt: skip
        return rows
    if reference is None:
        raise InputError(f"{method} is measured against {FULL_TEXT}: run that first")
    for known in reference["rows"]:
        windows = held[known["text"]]
        sample = Segments.whole(torch.tensor(windows[:1], device=model.backbone.device)[:, :HISTORY])
        for ratio in budget.ratios:
            value = nll(model, View(0, ratio), windows)
            nothing, full, last = known["nll_nothing"], known["nll_full"], known["nll_last_n"][str(ratio)]
            rows.append({
                "text": known["text"], "segments": 1, "ratio": ratio,
                **memory_cost(model.step(sample, logits=False).state, model), "share": share_of(model),
                "nll_nothing": nothing, "nll_memory": value, "nll_last_n": last, "nll_full": full,
                "retained_gain": (nothing - value) / (nothing - full), "retained_gain_n": len(windows),
                "gain_last_n": (nothing - last) / (nothing - full),
            })  # fmt: skip
    return rows


TASK = TextTask("retained_gain", lambda budget: WINDOW, train_retention, retention_rows, True)
