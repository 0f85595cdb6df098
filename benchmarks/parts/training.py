"""The training loop of the benchmarks: AdamW, a rate that rises and falls, what it cost, the curve of the loss."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from benchmarks.parts.harness import console
from r3mem import InputError

DrawnT = TypeVar("DrawnT")
WARM_UP = 20
TRAINED = "training.json"


@dataclass
class Cost:
    """What a training cost.

    Attributes:
        train_seconds: Wall time of the steps, without drawing what they read.
        train_tokens: Tokens that were read.
        parameters: Trainable weights.
        curve: ``[tokens, mean loss since the point before]``, about ten points.
    """

    train_seconds: float = 0.0
    train_tokens: int = 0
    parameters: int = 0
    curve: list[list[float]] = field(default_factory=list)


class Reshuffled(Generic[DrawnT]):
    """So many items a call, in random order; in a new order when fewer are left.

    Args:
        items: What is drawn from.
        count: Items a call.
        draw: Draws the orders.
        keep: Whether those that are left come after the new order, which makes items fewer than ``count`` possible;
            otherwise they are passed over.

    Raises:
        InputError: There are too few.
    """

    def __init__(self, items: Sequence[DrawnT], count: int, draw: random.Random, keep: bool = False) -> None:
        if not items or (not keep and len(items) < count):
            raise InputError(f"{len(items)} to draw {count} a step from: give more texts, or a smaller --batch")
        self.items, self.count, self.draw, self.keep = items, count, draw, keep
        self._queue: list[DrawnT] = []

    def __call__(self) -> list[DrawnT]:
        while len(self._queue) < self.count:
            left = self._queue if self.keep else []
            self._queue = left + self.draw.sample(self.items, len(self.items))
        return [self._queue.pop() for _ in range(self.count)]


def descend(optimizer: torch.optim.Optimizer, lr: float, minimised: Tensor) -> None:
    """One step of an optimiser at a learning rate, the gradient's norm at most 1.

    Args:
        optimizer: Of all that is trained.
        lr: Learning rate of this step.
        minimised: What is minimised.
    """
    minimised.backward()  # type: ignore[no-untyped-call]
    for group in optimizer.param_groups:
        group["lr"] = lr
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def train(
    name: str,
    trained: nn.Module,
    steps: int,
    lr: float,
    draw: Callable[[], DrawnT],
    loss: Callable[[int, DrawnT], tuple[Tensor, Tensor]],
    tokens: Callable[[DrawnT], int],
) -> Cost:
    """Train a module, and leave it in evaluation mode.

    Args:
        name: Shown beside the progress bar.
        trained: All its weights that carry a gradient are trained.
        steps: Optimiser steps.
        lr: Highest learning rate; it rises over the first ``WARM_UP`` steps, a fifth of all at most, and falls over
            the last quarter.
        draw: Gives what a step reads.
        loss: Of a step's number and what it reads: what is minimised, and what the curve shows.
        tokens: How many tokens that was.
    """
    parameters = [p for p in trained.parameters() if p.requires_grad]
    cost = Cost(parameters=sum(p.numel() for p in parameters))
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    losses: list[float] = []
    warm_up = min(WARM_UP, max(1, steps // 5))
    trained.train()
    with Progress(
        TextColumn(f"train {name}"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(), console=console,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=steps, loss=float("nan"))
        for step in range(steps):
            drawn = draw()
            began = time.perf_counter()
            factor = min(1.0, (step + 1) / warm_up, (steps - step) / max(1, steps // 4))
            minimised, shown = loss(step, drawn)
            descend(optimizer, lr * factor, minimised)
            losses.append(float(shown.detach()))
            cost.train_seconds += time.perf_counter() - began
            cost.train_tokens += tokens(drawn)
            progress.update(task, advance=1, loss=losses[-1])
            if (step + 1) % max(1, steps // 10) == 0:
                cost.curve.append([cost.train_tokens, sum(losses) / len(losses)])
                console.print(f"{name}: {cost.train_tokens:,} tokens, loss {cost.curve[-1][1]:.3f}")
                losses = []
    trained.eval()
    return cost


def trained_before(folder: Path | None, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What a training in a folder cost; None where there is none.

    Args:
        folder: Of the model.
        settings: What it is to have been trained with.

    Raises:
        InputError: It was trained with others.
    """
    if folder is None or not (folder / TRAINED).is_file():
        return None
    found = json.loads((folder / TRAINED).read_text(encoding="utf-8"))
    asked = json.loads(json.dumps(settings))
    others = sorted(k for k in {*asked, *found["settings"]} if asked.get(k) != found["settings"].get(k))
    if others:
        raise InputError(f"{folder} was trained with other settings ({', '.join(others)}): give --save another folder")
    cost: dict[str, Any] = found["cost"]
    return cost


def keep_training(folder: Path, settings: dict[str, Any], cost: Any) -> None:
    """Write beside a trained model what :func:`trained_before` reads; ``cost`` is a data class."""
    text = json.dumps({"settings": settings, "cost": asdict(cost)}) + "\n"
    (folder / TRAINED).write_text(text, encoding="utf-8")
