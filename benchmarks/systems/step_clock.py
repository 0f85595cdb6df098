"""Callbacks that write down, for each process of a run, when its steps ended and how much memory it took."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

MIB = 2**20


class StepClock(Callback):
    """Writes ``rank0.json``, ``rank1.json``, ... at the end of training.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._ends: list[float] = []
        self._tokens: list[int] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note a step's end, as the clock on the wall has it: other processes and the launcher have the same."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self._tokens.append(int(batch["lengths_BT"].sum()))
        self._ends.append(time.time())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was noted."""
        cuda = pl_module.device.type == "cuda"
        found = {
            "ends": self._ends,
            "tokens": self._tokens,
            "peak_resident_mib": _peak_resident_mib(),
            "peak_allocated_mib": torch.cuda.max_memory_allocated() / MIB if cuda else 0,
            "optimizer_bytes": sum(_state_bytes(optimizer) for optimizer in trainer.optimizers),
            "trained_bytes": sum(p.numel() * p.element_size() for p in pl_module.parameters() if p.requires_grad),
        }
        _write(self.folder, trainer, found)


class PredictionClock(Callback):
    """Writes the same files at the end of a prediction: when it began and ended, and what it read.

    Args:
        folder: Where to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._began, self._tokens = 0.0, 0

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is loaded and every process is there."""
        trainer.strategy.barrier()
        self._began = time.time()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Count what was read."""
        self._tokens += int(batch["lengths_BT"].sum())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last memory of the last process is on disk."""
        found = {"seconds": time.time() - self._began, "tokens": self._tokens, "began": self._began,
                 "peak_resident_mib": _peak_resident_mib()}  # fmt: skip
        _write(self.folder, trainer, found)


def _write(folder: Path, trainer: Trainer, found: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(found))


def _peak_resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _state_bytes(optimizer: Any) -> int:
    """Bytes of this process's part of an optimiser's state, the counts of steps left out."""
    # Lightning wraps the optimiser, DeepSpeed wraps it again.
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    kept = [value for state in optimizer.state.values() for value in state.values()]
    local = [value.to_local() if hasattr(value, "to_local") else value for value in kept if torch.is_tensor(value)]
    return sum(value.numel() * value.element_size() for value in local if value.numel() > 1)
