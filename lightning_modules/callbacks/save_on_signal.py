"""A run that is told to end saves after its step, with all its processes together, and ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from r3mem.errors import ConfigError


class SaveOnSignal(Callback):
    """Answers the signal by which a run is asked to end: saves ``last-stepN.ckpt`` beside its checkpoints, and ends.

    The signal is only noted. After an optimiser step all processes agree that one of them had it, then save together.
    Lightning's own answer to SIGTERM speaks to the other processes inside the signal's handler, wherever each of them
    happens to be, saves nothing, and ends with code 0, as if training were finished. The code here is 128 + the
    signal's number (143 for SIGTERM), as it is of a program that the signal has ended.

    Args:
        signal_name: The signal.
        every_n_steps: Steps between two agreements; one takes a small reduction over all processes.

    Raises:
        ConfigError: There is no such signal, or an impossible number of steps.
    """

    def __init__(self, signal_name: str = "SIGTERM", every_n_steps: int = 1) -> None:
        if signal_name not in signal.Signals.__members__:
            raise ConfigError(f"signal_name {signal_name!r} is no signal here; give one such as SIGUSR1")
        if every_n_steps < 1:
            raise ConfigError(f"every_n_steps {every_n_steps} is not possible; ask at least every step: 1")
        self.signal_name, self.every_n_steps = signal_name, every_n_steps
        self._told, self._agreed = False, 0
        self._before: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signal over; nothing was agreed upon yet at the step that is begun with."""
        self._agreed = trainer.global_step
        self._take_over()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for the validation before training: answered after the first step."""
        self._take_over()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A prediction just ends: each of its files is whole or not there, and the same command goes on."""
        if self.signal_name == "SIGTERM" and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _take_over(self) -> None:
        if self._before is None and threading.current_thread() is threading.main_thread():
            self._told = False
            self._before = signal.signal(signal.Signals[self.signal_name], self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Workers that load data inherit this: harmless there.
        self._told = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree, then answer."""
        step = trainer.global_step
        if self._before is None or step == self._agreed or step % self.every_n_steps:
            return
        self._agreed = step  # Once an optimiser step: batches that are only accumulated do not count.
        if trainer.strategy.reduce_boolean_decision(self._told, all=False):
            self.answer(trainer)

    def answer(self, trainer: Trainer) -> NoReturn:
        """What all processes do, at the same step."""
        said = f"told to end by {self.signal_name} at step {trainer.global_step}"
        checkpoints = trainer.checkpoint_callback
        if isinstance(checkpoints, ModelCheckpoint) and checkpoints.dirpath and not trainer.fast_dev_run:
            path = f"{checkpoints.dirpath}/last-step{trainer.global_step}.ckpt"
            trainer.save_checkpoint(path, weights_only=False)
            word = path if "://" in path else "latest"
            rank_zero_info(f"{said}: saved {path}; the same command with --ckpt_path {word} goes on from there")
        else:
            rank_zero_info(f"{said}: nothing is saved, because checkpoints are switched off")
        # The process that started others ends them all at once if one of them ends with another code than 0.
        raise SystemExit(128 + signal.Signals[self.signal_name] if trainer.is_global_zero else 0)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signal back."""
        if self._before is not None:
            signal.signal(signal.Signals[self.signal_name], self._before)
            self._before = None
