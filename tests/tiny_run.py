"""Whole runs of the command line at a size for tests: the random Llama, bytes for tokens, a few invented documents."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.tensor import DTensor

from tests.tiny_models import WIDTH

CONFIGS = Path(__file__).parents[1] / "configs"
WORDS = ("lorem", "ipsum", "dolor", "sit", "amet", "consectetur", "adipiscing", "elit", "sed", "eiusmod", "tempor")


class StopAfter(Callback):
    """Ends a run after some optimiser steps, as if somebody had stopped it.

    Args:
        steps: How many.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.steps


class WatchSplitLayers(Callback):
    """Writes what every process holds of the frozen layers while it trains: a line ``share open`` for each step.

    Args:
        folder: Where to; a file for each process.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """After the forward passes: the share of split weights that is here, and how many stand open as a whole."""
        frozen = [p for p in cast(Any, pl_module).backbone.layers.parameters() if not p.requires_grad]
        split = [p for p in frozen if isinstance(p, DTensor)]
        share = sum(p.to_local().numel() for p in split) / sum(p.numel() for p in split)
        with (self.folder / f"split-{trainer.global_rank}.txt").open("a") as file:
            file.write(f"{share} {len(frozen) - len(split)}\n")


def write_documents(folder: Path, count: int = 24, words: int = 20) -> Path:
    """A folder of text files of unequal length."""
    draw = random.Random(0)
    texts = folder / "texts"
    texts.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        text = " ".join(draw.choice(WORDS) for _ in range(draw.randint(words // 4, words)))
        (texts / f"{i:02d}.txt").write_text(f"{i}. {text}\n")
    return texts


def config(*names: str) -> list[str]:
    """``--config`` arguments for shipped files, by their paths without suffix."""
    return [f"--config={CONFIGS / name}.yaml" for name in names]


def tiny(backbone: Path, texts: Path, folder: Path) -> list[str]:
    """Arguments that make any complete configuration small, and log to ``folder/metrics.csv``."""
    return [
        f"--model.backbone.init_args.name={backbone}",
        "--model.backbone.init_args.dtype=float32",
        "--model.backbone.init_args.lora_rank=4",
        f"--model.compressor.init_args.width={WIDTH}",
        "--model.compressor.init_args.ratio=4",
        "--model.compressor.init_args.write_layer=2",
        "--model.compressor.init_args.read_layer=1",
        f"--data.init_args.train={texts}",
        "--data.init_args.segment_tokens=16",
        "--data.init_args.batch_size=4",
        "--data.init_args.min_tokens=1",
        "--data.init_args.validation_fraction=0.2",
        "--data.init_args.test_fraction=0.2",
        "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
        f"--trainer.logger.init_args.save_dir={folder}",
        "--trainer.logger.init_args.name=",
        "--trainer.logger.init_args.version=",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
        f"--trainer.default_root_dir={folder}",
    ]


def logged(folder: Path, key: str) -> dict[int, str]:
    """What was logged under a name, step by step, digit for digit."""
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): row[key] for row in csv.DictReader(file) if row.get(key)}


def largest_difference(one: dict[Any, Any], other: dict[Any, Any]) -> float:
    """Between tensors or numbers of the same names."""
    assert set(one) == set(other)
    return max(float((torch.as_tensor(one[k]) - torch.as_tensor(other[k])).abs().max()) for k in one)
