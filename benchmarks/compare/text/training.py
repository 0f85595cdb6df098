"""Training of methods on text, each on the same windows for the same number of tokens.

Shape legend: B batch, N text tokens.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare.methods import compressor_of, has_maps
from benchmarks.parts.harness import console
from benchmarks.parts.training import Cost, Reshuffled, keep_training, train, trained_before
from r3mem import Backbone, MemoryState, R3Mem, Segments
from r3mem.model.saving import load_own_state, read_weights
from r3mem.objectives import forward_nll, reconstruction_nll
from r3mem.plain_data.components import describe
from r3mem.reversible import IdentityCoupling, PositionBinding, ReversibleStack

# The reader of raw text; all other methods are files of configs/model/.
RAW = "raw"
HISTORY, CONTINUATION = 512, 256
WINDOW = HISTORY + CONTINUATION
# Adapters have about as many weights as those of a memory method that has two maps beside them.
LORA_RANK, LORA_RANK_WITH_MAPS = 16, 14


@dataclass(frozen=True)
class View:
    """What a reader gets to see of a history: the memory of all but the last ``recent`` tokens, then those tokens.

    Attributes:
        recent: Raw tokens in front of the continuation.
        ratio: Compression of everything older; None for no memory.
    """

    recent: int
    ratio: int | None = None


def views_of(method: str, ratios: list[int]) -> list[View]:
    """The views that a method is trained on and asked for later, in turn."""
    if method == RAW:
        return [View(0), *(View(HISTORY // r) for r in ratios), View(HISTORY)]
    return [view for r in ratios for view in (View(0, r), mixed(r))]


def mixed(ratio: int) -> View:
    """Half of ``HISTORY / ratio`` positions for raw recent tokens, half for the memory of everything older."""
    recent = HISTORY // ratio // 2
    return View(recent, -(-(HISTORY - recent) // recent))


def build(method: str, backbone_name: str, dtype: str, ratios: list[int], options: dict[str, Any]) -> R3Mem:
    """An untrained model of a method; ``share`` among the options is of its exact share, 0 for none."""
    mapped = method != RAW and has_maps(method)
    backbone = Backbone(backbone_name, dtype, lora_rank=LORA_RANK_WITH_MAPS if mapped else LORA_RANK)
    share, ratio = options.pop("share", 0.25), min(ratios)
    # The raw reader has a compressor that it never uses.
    made = compressor_of("no_memory" if method == RAW else method, backbone, ratio, HISTORY, **options)
    words = PositionBinding(backbone.width, ratio, share) if share else IdentityCoupling(ratio)
    model = R3Mem(backbone, made, ReversibleStack([words]))
    model.set_ratio(max(ratios))
    return model


def remembered(model: R3Mem, view: View, ids_BN: torch.Tensor) -> tuple[Segments, MemoryState | None]:
    """The part of the history that a view has as a memory, and that memory.

    Args:
        model: The model.
        view: What it sees of the history.
        ids_BN: Windows of history and continuation.
    """
    text = Segments.whole(ids_BN[:, : ids_BN.shape[1] - CONTINUATION - view.recent])
    if view.ratio is None:
        return text, None
    model.set_ratio(view.ratio)
    return text, model.step(text, logits=False).state


def loss_of(
    model: R3Mem, view: View, ids_BN: torch.Tensor, state: MemoryState | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed NLL of the continuation after its first token, and the number of tokens.

    Args:
        model: The model.
        view: What it sees of the history.
        ids_BN: Windows of history and continuation.
        state: What is remembered of the history.
    """
    n_batch, window = ids_BN.shape
    history = window - CONTINUATION
    rows_B = torch.ones(n_batch, dtype=torch.bool, device=ids_BN.device)
    logits_BNV = model.likelihood(Segments.whole(ids_BN[:, history - view.recent :]), state)[:, view.recent :]
    return forward_nll(logits_BNV, Segments.whole(ids_BN[:, history:]), rows_B)


def trained(
    method: str,
    windows: list[list[int]],
    model: R3Mem,
    views: list[View],
    tokens: int,
    batch: int,
    lr: float,
    seed: int,
    folder: Path | None,
    weight: float = 0.0,
) -> Cost:
    """Train a method, or load it where it has been trained before.

    Args:
        method: Name.
        windows: Token windows of ``WINDOW`` tokens; drawn in the same order for every method.
        model: The untrained model.
        views: What it is trained on, in turn.
        tokens: Tokens of windows to read.
        batch: Windows a step.
        lr: Highest learning rate.
        seed: Of the order.
        folder: Where the trained model is kept; None keeps nothing.
        weight: Of the likelihood of the history itself, reconstructed from its memory.
    """
    settings = {
        "method": method, "windows": len(windows), "views": [asdict(view) for view in views], "tokens": tokens,
        "batch": batch, "lr": lr, "seed": seed, "weight": weight,
        "parts": [describe(part) for part in (model.backbone, model.compressor, model.decoder)],
    }  # fmt: skip
    before = trained_before(folder, settings)
    if folder is not None and before is not None:
        load_own_state(model, read_weights(folder))
        console.print(f"{method}: trained before, loaded from {folder}")
        return Cost(**before)
    next_windows = Reshuffled(windows, batch, random.Random(seed))
    if method != RAW:
        explained = model.calibrate([i for w in windows[:48] for i in w])
        console.print(f"{method}: reading explains {explained:.0%} of its target's variance before training")

    def draw() -> torch.Tensor:
        return torch.tensor(next_windows(), device=model.backbone.device)

    def loss(step: int, ids_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        view = views[step % len(views)]
        text, state = remembered(model, view, ids_BN)
        total, count = loss_of(model, view, ids_BN, state)
        nll = total / count
        if not weight or state is None:
            return nll, nll
        reconstructed, n_reconstructed = reconstruction_nll(model.reconstruct(text, state), text)
        return nll + weight * reconstructed / n_reconstructed, nll

    # The raw reader has a compressor that it never uses.
    part = model.backbone if method == RAW else model
    cost = train(method, part, max(1, tokens // (batch * WINDOW)), lr, draw, loss, torch.Tensor.numel)
    model.eval()
    if folder is not None:
        model.save_pretrained(folder)
        keep_training(folder, settings, cost)
    return cost
