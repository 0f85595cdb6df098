"""How fast a run is and how much memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs real tokens (no padding) per second, of all processes together, and the peak of memory.

    ``peak_memory_mb`` is of the first process: what torch allocated at most on a GPU since training began, or the
    process's largest resident size on a CPU. Lightning's ``ThroughputMonitor`` supposes equal batches and knows no
    memory.

    Args:
        every_n_steps: Optimiser steps from one measurement to the next; 0 measures nothing.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps
        self._tokens, self._since, self._paused_at, self._step = torch.zeros(()), 0.0, 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._restart(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._paused_at = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock run on."""
        self._since += time.perf_counter() - self._paused_at

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch, and log every ``every_n_steps`` steps."""
        if not self.every_n_steps:
            return
        # On the batch's device: to read it here would wait for the GPU in every step.
        self._tokens = self._tokens.to(pl_module.device) + batch["lengths_BT"].sum()
        if trainer.global_step - self._step < self.every_n_steps:
            return
        tokens = float(trainer.strategy.reduce(self._tokens.double(), reduce_op="sum"))
        rate = tokens / (time.perf_counter() - self._since)
        found = {"tokens_per_second": rate, "peak_memory_mb": peak_memory_mb(pl_module.device)}
        # Not by pl_module.log: it drops what does not fall on a step of the trainer's own interval.
        for logger in trainer.loggers:
            logger.log_metrics(found, step=trainer.global_step - 1)
        self._restart(trainer, pl_module)

    def _restart(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tokens = torch.zeros((), dtype=torch.long, device=pl_module.device)
        self._since, self._step = time.perf_counter(), trainer.global_step


def peak_memory_mb(device: torch.device) -> float:
    """Most memory used so far, in MiB: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
