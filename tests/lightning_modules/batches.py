"""Batches of random bytes, a training on them, and what a module makes of one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_modules.batch_pass import total
from lightning_modules.memory_module import MemoryModule
from r3mem import Segments, objectives
from r3mem.objectives import Objective, Term

#: Terms of streams, in the order in which the golden numbers have them computed: what they draw depends on it.
TERMS = ("forward", "kl", "query", "autoencode", "backward", "cycle", "residual")
CLASSES: dict[str, type[Term]] = {
    made.name: made for made in vars(objectives).values() if inspect.isclass(made) and hasattr(made, "needs")
}
TEXTS = [[list(range(40, 56)), list(range(60, 68))], [list(range(70, 83)), list(range(90, 95))]]
QUERIES = [[[5, 6, 7], [8]], [[9, 8, 7, 6], []]]
Batch = dict[str, Tensor]
Make = Callable[..., MemoryModule]


def batch(seed: int = 0, rows: int = 3, segments: int = 2, tokens: int = 8, **given: Any) -> Batch:
    """Full segments of random bytes, every row at the start of a document unless told otherwise."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        "ids_BTN": torch.randint(0, 256, (rows, segments, tokens), generator=generator),
        "lengths_BT": torch.full((rows, segments), tokens),
        "reset_B": torch.ones(rows, dtype=torch.bool),
        "document_B": torch.arange(rows),
    }
    return made | {key: torch.as_tensor(value) for key, value in given.items()}


class Batches(LightningDataModule):
    """The same list of batches in every epoch."""

    def __init__(self, batches: list[Batch]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]

    val_dataloader = train_dataloader


def objective(**weights: float) -> Objective:
    """An objective by the names of its terms."""
    return Objective([CLASSES[name](weight) for name, weight in weights.items()])


def pairs(relevant: list[list[bool]] | None = None, source: tuple[int, int] = (-1, 0)) -> Batch:
    """Two rows of two segments with queries: `TEXTS` and `QUERIES`."""

    def padded(rows: list[list[list[int]]]) -> tuple[Tensor, Tensor]:
        flat = Segments.pad([ids for row in rows for ids in row])
        return flat.ids_BN.view(2, 2, -1), flat.lengths_B.view(2, 2)

    ids_BTN, lengths_BT = padded(TEXTS)
    query_BTQ, query_lengths_BT = padded(QUERIES)
    return {
        "ids_BTN": ids_BTN, "lengths_BT": lengths_BT, "query_BTQ": query_BTQ, "query_lengths_BT": query_lengths_BT,
        "relevant_BT": torch.tensor(relevant or [[True, True], [True, True]]), "level_T": torch.tensor([0, 1]),
        "source_T": torch.tensor(source), "document_B": torch.tensor([0, 1]),
    }  # fmt: skip


def candidates() -> Batch:
    """One query a row, and a wrong segment beside the right one: a row needs no other."""
    made = pairs(relevant=[[True, False], [False, True]], source=(-1, -1))
    for name in ("query_BTQ", "query_lengths_BT"):
        made[name][:, 1] = made[name][:, 0]
    return made


def terms_of(module: MemoryModule, given: Batch, state: Any = None) -> dict[str, Tensor]:
    """Values of the terms for one batch."""
    torch.manual_seed(1)
    sums, _ = module.sums(given, state)
    return {name: mean_of(parts) for name, parts in sums.items()}


def gradients(module: MemoryModule, loss: Tensor) -> dict[str, Tensor]:
    """Gradients of every trainable parameter, zeros where the loss does not reach."""
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named, found, strict=True)}


def fit(module: MemoryModule, folder: Path, batches: list[Batch], steps: int, **options: Any) -> Trainer:
    """Train on the CPU, nothing saved."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    options = {"logger": False, "limit_val_batches": 0} | quiet | options
    trainer = Trainer(accelerator="cpu", max_steps=steps, default_root_dir=folder, **options)
    trainer.fit(module, datamodule=Batches(batches))
    return trainer


def mean_of(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The mean of a term."""
    summed, count = total(parts, torch.device("cpu"))
    return summed / count.clamp(min=1)
