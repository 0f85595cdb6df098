"""The latest whole checkpoint of a run: ``--ckpt_path latest``, and where a job goes on that SLURM began again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_warn

from lightning_modules.whole_checkpoints import TRAINING_STATE, step_of
from r3mem.errors import InputError


def latest_checkpoint(
    trainer: Trainer, needed: Iterable[str] = TRAINING_STATE, weights_only: bool = True
) -> Path | None:
    """Of all checkpoints of the trainer's run, the whole one of the latest step; None where there is no checkpoint.

    Damaged ones are told and left out.

    Args:
        trainer: Its folders are those of every ``ModelCheckpoint``, and ``default_root_dir`` for ``hpc_ckpt_*``.
        needed: What a checkpoint must hold, see `step_of`.
        weights_only: See `step_of`.

    Raises:
        InputError: There are checkpoints, but none is whole.
    """
    paths = sorted(_checkpoints(trainer))
    whole: list[tuple[int, int, Path]] = []
    for path in paths:
        try:
            whole.append((step_of(path, needed, weights_only), path.stat().st_mtime_ns, path))
        except InputError as error:
            rank_zero_warn(f"left out: {error}")
    if paths and not whole:
        raise InputError(
            f"none of the checkpoints of this run is whole ({', '.join(str(path) for path in paths)}): "
            "delete them to begin anew"
        )
    return max(whole)[-1] if whole else None


def check_folders(trainer: Trainer) -> None:
    """Refuse to look for the run's checkpoints where its folder is a new one at each start, or not on a local disk.

    Raises:
        InputError: Says what to set.
    """
    logger = trainer.loggers[0] if trainer.loggers else None
    own = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.dirpath is None]
    if own and _is_numbered_anew(trainer):
        raise InputError(
            f"ckpt_path latest needs a folder that the run comes back to, but {type(logger).__name__} takes a new one "
            "at each start: name it by --trainer.logger.init_args.version=NAME, or set --checkpoint.dirpath=FOLDER"
        )
    remote = [str(folder) for folder in _folders(trainer) if "://" in str(folder)]
    if remote:
        raise InputError(f"ckpt_path latest looks into local folders, not into {remote[0]}: name the checkpoint itself")


def began_again() -> bool:
    """Whether this is a job that SLURM has started before: requeued by us, after a lost node or a pre-emption."""
    return SLURMEnvironment.detect() and int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


class SameStart(Callback):
    """Refuses a start at which the processes found different checkpoints, as they do in folders that they do not share.

    Args:
        path: What this process found.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare with the first process.

        Raises:
            InputError: On every process, if one differs.
        """
        first = trainer.strategy.broadcast(self.path)
        if not trainer.strategy.reduce_boolean_decision(first == self.path, all=True):
            raise InputError(
                f"processes found different checkpoints, here {self.path}, the first {first}: "
                "checkpoints must be in a folder that all machines share"
            )


def _folders(trainer: Trainer) -> set[Path | str]:
    """Of every ``ModelCheckpoint``, but for those of a folder that is new at each start."""
    callbacks = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    anew = _is_numbered_anew(trainer)
    # What Lightning decides in `setup`, when processes have met; the folder is wanted before.
    return {c._ModelCheckpoint__resolve_ckpt_dir(trainer) for c in callbacks if c.dirpath is not None or not anew}  # type: ignore[attr-defined]


def _is_numbered_anew(trainer: Trainer) -> bool:
    # None until it is asked for: then the logger counts the folders that are there.
    return bool(trainer.loggers) and getattr(trainer.loggers[0], "_version", "") is None


def _checkpoints(trainer: Trainer) -> Iterable[Path]:
    found = {path for folder in _folders(trainer) for path in Path(folder).glob("*.ckpt")}
    found |= set(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"))
    return (path for path in found if path.is_file())
