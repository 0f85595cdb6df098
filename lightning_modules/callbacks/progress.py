"""How far a run is: a bar in a terminal, a line now and then where there is none."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, RichProgressBar
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.phases import PHASES, Phases, clock

# Lightning shows the number of the logger's folder among the metrics.
LOGGER_VERSION = "v_num"


class TellStart(Callback):
    """Says in a line what is trained, from which step to which, and where it is saved."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it."""
        sizes = [(p.numel(), p.requires_grad) for p in pl_module.parameters()]
        learns, total = sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
        steps = float(trainer.estimated_stepping_batches)
        until = f" of {steps:.0f}" if steps != float("inf") else ""
        callback = trainer.checkpoint_callback
        folder = callback.dirpath if isinstance(callback, ModelCheckpoint) else None
        saved = f"checkpoints in {folder}" if folder and not trainer.fast_dev_run else "nothing is saved"
        rank_zero_info(
            f"training {_short(learns)} of {_short(total)} parameters from step {trainer.global_step}{until}; {saved}"
        )


class StepBar(RichProgressBar):
    """Lightning's bar, over the steps of the whole run where their number is set, and not anew for every epoch."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the telling over: lines would break the bar."""
        super().setup(trainer, pl_module, stage)
        PHASES.going_on(None)

    @property
    def total_train_batches(self) -> int | float:
        """Steps of the run, or batches of an epoch."""
        return self.trainer.max_steps if self._over_steps else super().total_train_batches

    @property
    def _over_steps(self) -> bool:
        return self.trainer.max_steps > 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a bar, unless the one of the run is there."""
        if not self._over_steps or self.train_progress_bar_id is None:
            super().on_train_epoch_start(trainer, pl_module)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What is shown behind the bar."""
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != LOGGER_VERSION}

    def _get_train_description(self, current_epoch: int) -> str:
        known = self.trainer.max_epochs is not None and self.trainer.max_epochs > 0
        if known and not self._over_steps:
            return str(super()._get_train_description(current_epoch))
        # As wide as the word for validation, so that the bar stays where it is.
        return f"{'Training' if self._over_steps else f'Epoch {current_epoch}':{len(self.validation_description)}}"

    def _update(self, progress_bar_id: Any, current: int, visible: bool = True, hard: bool = False) -> None:
        if self._over_steps and progress_bar_id is not None and progress_bar_id == self.train_progress_bar_id:
            current = self.trainer.global_step
        super()._update(progress_bar_id, current, visible, hard)


class ProgressLines(ProgressBar):
    """A line of progress after the first step, at most every ``seconds`` from then on, and at the end.

    A line has steps, what is logged for the bar, speed and the time that is left. A step or a batch that takes longer
    itself is told of in between, see `lightning_modules.phases`.

    Args:
        seconds: Between two lines.
        phases: What watches for silence.
    """

    def __init__(self, seconds: float = 10.0, phases: Phases = PHASES) -> None:
        super().__init__()
        self.seconds, self.phases = seconds, phases
        self._enabled, self._told = True, float("-inf")
        self._began, self._first, self._total = 0.0, 0, float("inf")

    def disable(self) -> None:
        """Lightning calls this in processes that are not the first."""
        self._enabled = False

    def enable(self) -> None:
        """Tell again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin(trainer.global_step)
        self._total = float(trainer.estimated_stepping_batches)
        self._working("began with the first step")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell, if it is time to."""
        step, total = trainer.global_step, self._total
        self._working(f"finished step {step}")
        if step == self._first or not self._is_time(last=step >= total):
            return
        # Only here: to read the metrics waits for the GPU.
        found = {k.removeprefix("train/"): v for k, v in self.get_metrics(trainer, pl_module).items()}
        shown = ", ".join(f"{k} {v:.4g}" for k, v in found.items() if k != LOGGER_VERSION and isinstance(v, float))
        known = total != float("inf")
        self._tell(f"step {step}{f' of {total:.0f}' if known else ''}", step, total if known else None, "steps", shown)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation inside of a training has no clock of its own."""
        if trainer.state.fn == "fit":
            self._working("began the validation")
        else:
            self._begin(0, "validating")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Tell, if it is time to."""
        self._batch(trainer, "validation", "val", batch_idx, dataloader_idx)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin(0, "testing")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Tell, if it is time to."""
        self._batch(trainer, "test", "test", batch_idx, dataloader_idx)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._begin(0, "predicting")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Tell, if it is time to."""
        self._batch(trainer, "prediction", "predict", batch_idx, dataloader_idx)

    def _batch(self, trainer: Trainer, what: str, short: str, index: int, dataloader: int) -> None:
        """A batch of what Lightning calls by a short name is done."""
        self.has_dataloader_changed(dataloader)  # Lightning's totals are of the one that is named here.
        total: int | float = getattr(self, f"total_{short}_batches_current_dataloader")
        done, known = index + 1, total != float("inf")
        line = f"{what}: batch {done}{f' of {total:.0f}' if known else ''}"
        self._working(line)
        alone = trainer.state.fn != "fit"
        if self._is_time(last=alone and done == total):
            self._tell(line, done if alone else None, total if known and alone else None, "batches")

    def _begin(self, first: int, phase: str = "") -> None:
        self._began, self._first, self._told = time.monotonic(), first, float("-inf")
        if phase and self._enabled:
            self.phases.tell(phase)

    def _working(self, doing: str) -> None:
        since = time.monotonic()
        self.phases.going_on(lambda: f"{doing}, {clock(time.monotonic() - since)} ago" if self._enabled else "")

    def _is_time(self, last: bool) -> bool:
        return self._enabled and (last or time.monotonic() - self._told >= self.seconds)

    def _tell(self, line: str, done: int | None, total: float | None, of: str, more: str = "") -> None:
        self._told = time.monotonic()
        parts = [line, *([more] if more else [])]
        if done is not None and done > self._first:
            speed = (done - self._first) / max(1e-9, self._told - self._began)
            parts.append(f"{speed:.3g} {of}/s")
            if total is not None:
                parts.append(f"{clock((total - done) / speed)} left" if done < total else f"took {self._took}")
        self.phases.write(", ".join(parts))

    @property
    def _took(self) -> str:
        return clock(time.monotonic() - self._began)


def _short(count: int) -> str:
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return str(count)
