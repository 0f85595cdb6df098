"""What may happen to a process in the middle of a training step, on purpose."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class SignalAt(Callback):
    """Sends one of the run's processes a signal, once, between the backward pass and the optimiser's step.

    Every process writes its id to ``pid-RANK`` in the run's folder, and the one that is hit the time, to ``hit``. While
    that file is there, nobody is hit again.

    Args:
        step: Optimiser steps that are taken before.
        name: The signal.
        rank: The process.
    """

    def __init__(self, step: int, name: str, rank: int = 0) -> None:
        self.step, self.name, self.rank = step, name, rank

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say who this is."""
        (Path(trainer.default_root_dir) / f"pid-{trainer.global_rank}").write_text(str(os.getpid()))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send it."""
        hit = Path(trainer.default_root_dir) / "hit"
        if trainer.global_step == self.step and trainer.global_rank == self.rank and not hit.exists():
            hit.write_text(str(time.time()))
            os.kill(os.getpid(), signal.Signals[self.name])


def signal_at(step: int, name: str, rank: int = 0) -> list[str]:
    """Arguments of the command line for it."""
    given = {"step": step, "name": name, "rank": rank}
    return [
        f"--trainer.callbacks={SignalAt.__module__}.SignalAt",
        *(f"--trainer.callbacks.init_args.{key}={value}" for key, value in given.items()),
    ]
