"""A segment is to be given back from its memory alone, every token right.

Shape legend: B batch, N text tokens.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from benchmarks.compare.methods import FULL_TEXT
from benchmarks.compare.text.task import TextBudget, TextTask, memory_cost, share_of
from benchmarks.compare.text.training import WINDOW
from benchmarks.parts.recalled import recall_row
from benchmarks.parts.training import Cost, Reshuffled, train
from r3mem import R3Mem, Segments
from r3mem.objectives import forward_nll


def train_recall(model: R3Mem, method: str, seed: int, budget: TextBudget, windows: list[list[int]]) -> Cost:
    """Every method learns to reconstruct a segment from its memory, at each ratio in turn; the reader, to repeat it."""
    # As many tokens a step as in `retention`.
    batch = max(1, budget.batch * WINDOW // budget.recall_tokens)
    next_windows = Reshuffled(windows, batch, random.Random(seed), keep=True)
    if method != FULL_TEXT:
        model.calibrate([i for w in windows[: 48 * WINDOW // budget.recall_tokens] for i in w])

    def draw() -> torch.Tensor:
        return torch.tensor(next_windows(), device=model.backbone.device)

    def loss(step: int, ids_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model.set_ratio(budget.ratios[step % len(budget.ratios)])
        logits_BNV, reconstructed = _reconstruction(model, method, ids_BN)
        total, count = forward_nll(logits_BNV, reconstructed, reconstructed.lengths_B > 0)
        return total / count, total / count

    steps = max(1, budget.train_tokens // (batch * budget.recall_tokens))
    part = model.backbone if method == FULL_TEXT else model
    return train(method, part, steps, budget.lr, draw, loss, torch.Tensor.numel)


def recall_rows(
    model: R3Mem, method: str, budget: TextBudget, held: dict[str, list[list[int]]], reference: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Share of segments that come back whole, each token after those that were given back before it.

    A method with an exact share runs its stack backward, before any correction; the others reconstruct. How well each
    reconstructs stands beside it: with the right tokens before each token (teacher-forced), and with its own
    (free-running).
    """
    rows: list[dict[str, Any]] = []
    for text, windows in held.items():
        ids_BN = torch.tensor(windows, device=model.backbone.device)
        for ratio in [1] if method == FULL_TEXT else budget.ratios:
            memory = {"positions": budget.recall_tokens, "bytes": 2 * budget.recall_tokens}
            if method != FULL_TEXT:
                model.set_ratio(ratio)
                memory = memory_cost(model.step(Segments.whole(ids_BN[:1]), logits=False).state, model)
            logits_BNV, _ = _reconstruction(model, method, ids_BN)
            free = _reconstructed(model, method, ids_BN)
            right = sum(a == b for out, ids in zip(free, windows, strict=True) for a, b in zip(out, ids, strict=False))
            row = {
                "text": text, "segments": 1, "ratio": ratio, **memory, "share": share_of(model),
                "recalled_by": "reconstruction",
                "teacher_forced_accuracy": float((logits_BNV[:, :-1].argmax(-1) == ids_BN).float().mean()),
                "free_running_accuracy": right / ids_BN.numel(),
                "reconstructed_exact": sum(out == ids for out, ids in zip(free, windows, strict=True)) / len(windows),
            }  # fmt: skip
            row |= {"recall_exact": row["reconstructed_exact"], "recall_exact_n": len(windows)}
            if share_of(model):
                exact = recall_row(model, text, windows, "float16")
                row |= {"recalled_by": "stack", "recall_exact": exact["exact_match"]}
                row |= {key: exact[key] for key in ("token_accuracy", "correction_bits_per_token")}
            rows.append(row)
    return rows


def _reconstruction(model: R3Mem, method: str, ids_BN: torch.Tensor) -> tuple[torch.Tensor, Segments]:
    """Next-token logits at ``[start ; text]`` given the text's memory, and what they are at."""
    reconstructed_BN = torch.nn.functional.pad(ids_BN, (1, 0), value=_start(model))
    reconstructed = Segments.whole(reconstructed_BN)
    if method == FULL_TEXT:
        both = Segments.whole(torch.cat([ids_BN, reconstructed_BN], 1))
        return model.likelihood(both)[:, ids_BN.shape[1] :], reconstructed
    logits_BNV = model.reconstruct(reconstructed, model.step(Segments.whole(ids_BN), logits=False).state).logits_BNV
    assert logits_BNV is not None
    return logits_BNV, reconstructed


def _reconstructed(model: R3Mem, method: str, ids_BN: torch.Tensor) -> list[list[int]]:
    """What is reconstructed, each token after the model's own."""
    n_batch, n_text = ids_BN.shape
    length = {"max_new_tokens": n_text, "min_new_tokens": n_text, "do_sample": False}
    if method == FULL_TEXT:
        return model.backbone.generate([[*ids, _start(model)] for ids in ids_BN.tolist()], **length)
    prefix = model.compressor.read_to_reconstruct(model.step(Segments.whole(ids_BN), logits=False).state)
    with model.compressor.reading(model.backbone):
        return model.backbone.generate([[_start(model)]] * n_batch, prefix, **length)


def _start(model: R3Mem) -> int:
    tokenizer = model.backbone.tokenizer
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return 0 if found is None else int(found)


TASK = TextTask("recall_exact", lambda budget: budget.recall_tokens, train_recall, recall_rows, False)
