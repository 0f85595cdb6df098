"""A run that is told to end saves after its step, with all its processes together, and ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from r3mem.errors import ConfigError

# Ctrl-C, and the end of the terminal.
BY_HAND = ("SIGINT", "SIGHUP")


class SaveOnSignal(Callback):
    """Answers a signal by which a run is asked to end: saves ``last-stepN.ckpt`` beside its checkpoints, and ends.

    Ctrl-C (SIGINT) and the end of the terminal (SIGHUP) are answered like the named signal, unless the process was
    started to ignore them, as ``nohup`` does. However many come, the run saves once. A second Ctrl-C ends it at once.

    The signal is only noted. After an optimiser step all processes agree that one of them had it, then save together.
    Lightning's own answer to SIGTERM speaks to the other processes inside the signal's handler, wherever each of them
    happens to be, saves nothing, and ends with code 0, as if training were finished. The code here is 128 + the
    signal's number (143 for SIGTERM), as it is of a program that the signal has ended.

    Args:
        signal_name: The signal of whoever runs the machine.
        every_n_steps: Steps between two agreements; one takes a small reduction over all processes.

    Raises:
        ConfigError: There is no such signal, or an impossible number of steps.
    """

    #: Signals that are answered beside the named one.
    also: tuple[str, ...] = BY_HAND

    def __init__(self, signal_name: str = "SIGTERM", every_n_steps: int = 1) -> None:
        if signal_name not in signal.Signals.__members__:
            raise ConfigError(f"signal_name {signal_name!r} is no signal here; give one such as SIGUSR1")
        if every_n_steps < 1:
            raise ConfigError(f"every_n_steps {every_n_steps} is not possible; ask at least every step: 1")
        self.signal_name, self.every_n_steps = signal_name, every_n_steps
        self._told: list[int] = []
        self._agreed, self._process = 0, 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signal over; nothing was agreed upon yet at the step that is begun with."""
        self._agreed = trainer.global_step
        self._take_over(trainer)

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for the validation before training: answered after the first step."""
        self._take_over(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A prediction just ends: each of its files is whole or not there, and the same command goes on."""
        if self.signal_name == "SIGTERM" and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _take_over(self, trainer: Trainer) -> None:
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self._told, self._process, self._trainer = [], os.getpid(), trainer
        for name in {self.signal_name, *self.also}:
            number = getattr(signal, name, None)  # SIGHUP is not everywhere.
            ignored = number is not None and signal.getsignal(number) == signal.SIG_IGN
            if number is not None and not (ignored and name != self.signal_name):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # Workers that load data inherit this: their parent ends them.
        self._told.append(number)
        if number != signal.SIGINT:
            return
        if self._told.count(signal.SIGINT) > 1:
            self._end_at_once()
        if self._trainer.is_global_zero:
            _write(2, "\nCtrl-C: saved after this step (a validation is finished first); Ctrl-C again ends at once\n")

    def _end_at_once(self) -> None:
        """As if nobody had taken the signal over; what is being written appears whole or not at all."""
        for process in getattr(self._trainer.strategy.launcher, "procs", None) or []:
            process.kill()
        if sys.stdout.isatty():
            _write(1, "\x1b[?25h")  # A bar hides the cursor.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Agree, then answer."""
        step = trainer.global_step
        if not self._before or step == self._agreed or step % self.every_n_steps:
            return
        self._agreed = step  # Once an optimiser step: batches that are only accumulated do not count.
        if trainer.strategy.reduce_boolean_decision(bool(self._told), all=False):
            self.answer(trainer)

    def answer(self, trainer: Trainer) -> NoReturn:
        """What all processes do, at the same step."""
        # Another process may be the one that was told.
        number = self._told[0] if self._told else signal.Signals[self.signal_name]
        said = f"told to end by {signal.Signals(number).name} at step {trainer.global_step}"
        checkpoints = trainer.checkpoint_callback
        if isinstance(checkpoints, ModelCheckpoint) and checkpoints.dirpath and not trainer.fast_dev_run:
            path = f"{checkpoints.dirpath}/last-step{trainer.global_step}.ckpt"
            trainer.save_checkpoint(path, weights_only=False)
            word = path if "://" in path else "latest"
            rank_zero_info(f"{said}: saved {path}; the same command with --ckpt_path {word} goes on from there")
        else:
            rank_zero_info(f"{said}: nothing is saved, because checkpoints are switched off")
        # The process that started others ends them all at once if one of them ends with another code than 0.
        raise SystemExit(128 + number if trainer.is_global_zero else 0)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}


def _write(descriptor: int, text: str) -> None:
    # Past Python's buffers: what was interrupted may be writing to them. The terminal may be gone.
    with suppress(OSError):
        os.write(descriptor, text.encode())
