"""A job that SLURM is about to end saves after its step, is queued again and goes on where it was."""

from __future__ import annotations

import os
import subprocess
from typing import NoReturn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities import rank_zero_info

from lightning_modules.callbacks.save_on_signal import SaveOnSignal


class SlurmRequeue(SaveOnSignal):
    """Answers the signal that ``#SBATCH --signal=SIGUSR1@90`` asks for; does nothing outside of SLURM.

    All processes save together after a step (``hpc_ckpt_N.ckpt`` in ``default_root_dir``, which a job must have to
    itself), and the first one requeues the job. Lightning's own answer saves inside the signal's handler, wherever each
    process happens to be: with more than one, they wait for each other at different places, or repeat a step. It is
    switched off.

    Args:
        signal_name: The signal.
        every_n_steps: Steps between two agreements; one takes a small reduction over all processes.

    Raises:
        ConfigError: There is no such signal, or an impossible number of steps.
    """

    also = ()

    def __init__(self, signal_name: str = "SIGUSR1", every_n_steps: int = 1) -> None:
        super().__init__(signal_name, every_n_steps)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the signal over, before Lightning registers its own answer."""
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment):
            environment.auto_requeue = False
            if stage == "fit":
                self._take_over(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing was agreed upon yet at the step that is begun with."""
        self._agreed = trainer.global_step

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Taken over in `setup`, and only under SLURM."""

    def answer(self, trainer: Trainer) -> NoReturn:
        """Save, requeue, leave."""
        path = trainer.strategy.broadcast(_CheckpointConnector.hpc_save_path(trainer.default_root_dir))
        trainer.save_checkpoint(path, weights_only=False)
        job = os.environ["SLURM_JOB_ID"]
        if "SLURM_ARRAY_JOB_ID" in os.environ:
            job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        step = trainer.global_step
        rank_zero_info(f"told to end by {self.signal_name}: saved {path} at step {step}, job {job} is queued again")
        if trainer.is_global_zero:
            subprocess.run(["scontrol", "requeue", job], check=True)
        raise SystemExit(0)  # Nothing that comes after a finished training may run.
