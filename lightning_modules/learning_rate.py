"""The learning rate over a run. A run that goes on has the settings it was given, not those of its checkpoint."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from r3mem.errors import ConfigError

#: What a checkpoint tells of them: settings of every group of weights, and of the schedule.
Settings = dict[str, Any]


class WarmupThenCosine(LambdaLR):
    """Rises in a line, then falls as a cosine to a share of the highest rate.

    Args:
        optimizer: Its groups' rates are the highest ones.
        warmup_steps: Optimiser steps of the rise.
        final_lr: Rate at the end, as a share of the highest.
        total: Optimiser steps of the whole run.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, final_lr: float, total: int) -> None:
        self.warmup_steps, self.final_lr, self.total = warmup_steps, final_lr, total
        super().__init__(optimizer, self._factor)
        # Now: a checkpoint that is loaded into the optimiser later puts its own in their place.
        self._given = [{k: v for k, v in g.items() if k not in ("params", "lr")} for g in optimizer.param_groups]

    def _factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total - self.warmup_steps))
        return self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * done))

    def state_dict(self) -> dict[str, Any]:
        """How far it is; its settings are those of the run that loads it."""
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at a step.

        Args:
            state_dict: What `state_dict` gave.
        """
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]

    def put_in_force(self) -> None:
        """Give the optimiser the settings that it was made with, at the rate of the step that is reached."""
        for group, given in zip(self.optimizer.param_groups, self._given, strict=True):
            group.update(given)
            group["lr"] = given["initial_lr"] * self._factor(self.last_epoch)
        self.base_lrs = [given["initial_lr"] for given in self._given]
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def settings(self) -> Settings:
        """All that is in force, as plain data; a run's checkpoints hold it."""
        groups = [{"lr" if k == "initial_lr" else k: _plain(v) for k, v in given.items()} for given in self._given]
        kind = type(self.optimizer)
        schedule = {"warmup_steps": self.warmup_steps, "final_lr": self.final_lr, "steps": self.total}
        return {"optimizer": f"{kind.__module__}.{kind.__qualname__}", "groups": groups, **schedule}


def check_steps(step: int, max_steps: int) -> None:
    """Refuse a checkpoint that is beyond the steps of this run, and say so if none is left.

    Args:
        step: Optimiser steps that the checkpoint has behind it.
        max_steps: Of this run; -1 for no limit.

    Raises:
        ConfigError: It is beyond.
    """
    if 0 <= max_steps < step:
        raise ConfigError(f"the checkpoint is at step {step}, beyond trainer.max_steps {max_steps}: give more steps")
    if step == max_steps:
        rank_zero_info(f"the checkpoint has all {step} steps of trainer.max_steps behind it: nothing is left to train")


def check_goes_on(before: Settings, now: Settings) -> None:
    """Say which settings are others than those of the checkpoint, and refuse another optimiser.

    Args:
        before: What the checkpoint tells.
        now: What this run was given.

    Raises:
        ConfigError: The checkpoint is of another optimiser.
    """
    if before["optimizer"] != now["optimizer"]:
        raise ConfigError(
            f"the checkpoint was trained with {before['optimizer']}, model.optimizer here is {now['optimizer']}, which "
            "cannot go on from its state: give the same one"
        )
    if others := changed(before, now):
        rank_zero_info(f"goes on with other settings than the checkpoint's: {', '.join(others)}")


def changed(before: Settings, now: Settings) -> list[str]:
    """What differs between two runs' settings, in words: ``lr 0.0003 -> 0.001``.

    Args:
        before: Of the run that is gone on with.
        now: Of this run.
    """
    one, other = (
        {**{k: v for k, v in s.items() if k != "groups"}, **{k: v for g in reversed(s["groups"]) for k, v in g.items()}}
        for s in (before, now)
    )
    names = [*one, *(name for name in other if name not in one)]
    return [f"{n} {one.get(n)} -> {other.get(n)}" for n in names if one.get(n) != other.get(n)]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
