"""The settings of a run on disk: only ``fit`` writes ``config.yaml``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

#: What ``fit`` writes; other commands read it.
SETTINGS = "config.yaml"


class SaveSettings(SaveConfigCallback):
    """Saves the settings of a command in its log folder: those of a training as ``config.yaml``, others beside it.

    ``validate`` in the folder of a run has settings of its own (``config-validate.yaml``). In the place of the
    training's they would be taken for what the checkpoints there were trained with.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write, before the command begins."""
        command: Any = trainer.state.fn
        name = SETTINGS if command is None or command == "fit" else f"config-{command.value}.yaml"
        self.config_filename = name
        super().setup(trainer, pl_module, stage)
