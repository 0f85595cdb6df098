"""One method on one task on real text: trained, then measured.

Shape legend: B batch, N text tokens.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.compare.methods import FULL_TEXT, compressor_of, decoder_of, has_maps
from benchmarks.compare.tasks import TEXT_TASKS
from benchmarks.compare.text.likelihood import parted
from benchmarks.compare.text.task import TextBudget
from benchmarks.compare.text.training import HISTORY, LORA_RANK, LORA_RANK_WITH_MAPS, WINDOW
from benchmarks.parts.harness import documents, name_of, peak_mib, windows_of
from r3mem import Backbone, InputError, R3Mem
from r3mem.backbone.evaluation_mode import evaluating


def run_text(
    task: str, method: str, seed: int, budget: TextBudget, reference: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train a method and measure it.

    Args:
        task: One of ``TEXT_TASKS``.
        method: Name of a method, or ``full_text``.
        seed: Of the weights and of the order of the windows.
        budget: What all methods have alike.
        reference: What ``full_text`` gave for the same task and seed, where the task needs it.

    Returns:
        ``metric``, ``budget``, ``cost`` and ``rows``.

    Raises:
        InputError: No such task, no text, or too little of it.
    """
    if task not in TEXT_TASKS:
        raise InputError(f"no task {task!r} on text: give one of {', '.join(TEXT_TASKS)}")
    if not budget.texts:
        raise InputError("no text to compare on: give some with --text, such as $R3MEM_DATA/books")
    chosen = TEXT_TASKS[task]
    torch.manual_seed(seed)
    model = _model_of(method, budget)
    training, held = _texts(model, budget, chosen.size(budget))
    cost = chosen.train(model, method, seed, budget, training)
    began = time.perf_counter()
    with evaluating(model), torch.no_grad():
        rows = chosen.rows(model, method, budget, held, reference)
    spent = {
        "train_seconds": round(cost.train_seconds, 2), "train_tokens": cost.train_tokens,
        "train_tokens_per_second": round(cost.train_tokens / cost.train_seconds, 1), "parameters": cost.parameters,
        "evaluation_seconds": round(time.perf_counter() - began, 2), "peak_mib": round(peak_mib()),
    }  # fmt: skip
    return {"metric": chosen.metric, "budget": asdict(budget), "cost": spent, "rows": rows}


def _model_of(method: str, budget: TextBudget) -> R3Mem:
    """An untrained model; adapters have about as many weights in all methods, maps counted."""
    name = "no_memory" if method == FULL_TEXT else method
    backbone = Backbone(budget.backbone, budget.dtype, lora_rank=LORA_RANK_WITH_MAPS if has_maps(name) else LORA_RANK)
    least = min(budget.ratios)
    made = compressor_of(name, backbone, least, HISTORY)
    model = R3Mem(backbone, made, decoder_of(name, backbone, least))
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _texts(model: R3Mem, budget: TextBudget, size: int) -> tuple[list[list[int]], dict[str, list[list[int]]]]:
    """Windows to train on, and held-out ones by the name of their text; the same for every method and seed."""
    training: list[list[int]] = []
    held: dict[str, list[list[int]]] = {}
    for text in budget.texts:
        path = os.path.expandvars(text)
        seen, kept = parted(documents(path, model.backbone, budget.source_tokens, skip=5000, least=WINDOW))
        training += windows_of(seen, size, 10**6)
        held[name_of(path)] = windows_of(kept, size, budget.passages)
    return training, held
