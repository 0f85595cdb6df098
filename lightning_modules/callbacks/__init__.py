"""Callbacks of training and prediction."""

from lightning_modules.callbacks.export_adapter import ExportAdapter
from lightning_modules.callbacks.memory_writer import MemoryWriter
from lightning_modules.callbacks.progress import ProgressLines, StepBar, TellStart
from lightning_modules.callbacks.save_on_signal import SaveOnSignal
from lightning_modules.callbacks.slurm_requeue import SlurmRequeue
from lightning_modules.callbacks.throughput import Throughput

__all__ = [
    "ExportAdapter",
    "MemoryWriter",
    "ProgressLines",
    "SaveOnSignal",
    "SlurmRequeue",
    "StepBar",
    "TellStart",
    "Throughput",
]
