"""What happens to the processes of a run when one of them ends before the others."""

from __future__ import annotations

import re
import subprocess
import time

from lightning.pytorch import Trainer

# How gloo, NCCL and the store that processes meet at tell that another one is gone, or that it did not answer in time.
LOST = r"gloo/transport|ncclRemoteError|Connection (closed|reset) by peer|Broken pipe|[Tt]imed out (after|waiting)"


def tells_of_lost(error: RuntimeError) -> bool:
    """Whether an error came of another process's end."""
    return bool(re.search(LOST, str(error)))


def end_others(trainer: Trainer, seconds: float = 10.0) -> None:
    """End the processes that this one has started: first they may tell their own errors, then they are killed.

    Without it they would wait for this one on a GPU until the time limit of a collective operation is over.

    Args:
        trainer: Whose processes; those that SLURM or torchrun started are theirs to end.
        seconds: How long they are waited for together.
    """
    end = time.monotonic() + seconds
    started = getattr(trainer.strategy.launcher, "procs", [])
    others = list(started)
    # Lightning watches this list, and would kill this process too when one of them ends with another code than 0.
    started.clear()
    for process in others:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
