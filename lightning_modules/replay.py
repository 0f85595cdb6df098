"""Segments computed again in the backward pass (memory replay back-propagation, 2010.06891)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch
from torch.utils.checkpoint import checkpoint

from r3mem.model import R3Mem

ResultT = TypeVar("ResultT")
Given = ParamSpec("Given")


class Replay:
    """Runs something; where it is on, keeps its arguments only and runs it again in the backward pass.

    Args:
        model: Its ratio in force is that of both runs.
        on: Whether anything is run again.
    """

    def __init__(self, model: R3Mem, on: bool) -> None:
        self.model, self.on = model, on

    def __call__(self, run: Callable[Given, ResultT], *arguments: Given.args, **named: Given.kwargs) -> ResultT:
        """What `run` gives of its arguments."""
        if not self.on or not torch.is_grad_enabled():
            return run(*arguments, **named)
        ratio = self.model.ratio

        def at_its_ratio() -> ResultT:
            with self.model.at_ratio(ratio):  # In the backward pass another level's ratio may be set.
                return run(*arguments, **named)

        return cast(ResultT, checkpoint(at_its_ratio, use_reentrant=False))
