"""The hierarchies that ``ablation.py`` compares, and their training for the same number of text tokens.

Shape legend: B rows, T segments of a row.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from benchmarks.compare.methods import compressor_of
from benchmarks.parts.harness import console
from benchmarks.parts.training import keep_training, trained_before
from datamodules.fields import DocumentFields
from datamodules.hierarchical import HierarchyDataModule
from lightning_modules.cli import QUIET
from lightning_modules.memory_module import MemoryModule
from r3mem import Backbone, InputError, R3Mem
from r3mem.hierarchy import (
    EntityFinder,
    EntityMentions,
    FixedWindows,
    Hierarchy,
    Level,
    MultiLevel,
    Refined,
)
from r3mem.hierarchy.levelled import default_levels
from r3mem.objectives import ForwardNLL, Objective, QueryNLL
from r3mem.reversible import PositionBinding, ReversibleStack

HIERARCHIES = ("flat", "multi_level", "refined")
# Where LitBank's records keep things.
FIELDS = DocumentFields(text="text", mentions="entities", mention_kind="type", title="title", name="id")
# At ratio 5 a window of 46 tokens takes 10 virtual tokens: as many a text token (0.217) as the three levels together,
# whose last segments are seldom full.
WINDOW_TOKENS = 46
# As many as make a row of windows about as long as a path from document to entity.
SEGMENTS_PER_ROW = 13
QUERY_TOKENS = 64
# What a kept model must have been trained with.
SETTINGS = (
    "backbone", "dtype", "compressor", "first", "share", "ratio", "write_layer", "read_layer", "calibrate", "batch",
    "lr", "warm_up", "train_tokens",
)  # fmt: skip


@dataclass
class Spent:
    """What a training cost.

    Attributes:
        train_tokens: Text tokens of the segments that were compressed; a segment counts each time.
        train_seconds: Wall time of the steps.
        train_steps: Optimiser steps.
        train_queries: Queries that were scored for their own segment.
        parameters: Trainable weights.
        curve: ``[tokens, mean loss since the point before]``.
    """

    train_tokens: int = 0
    train_seconds: float = 0.0
    train_steps: int = 0
    train_queries: int = 0
    parameters: int = 0
    curve: list[list[float]] = field(default_factory=list)


class StopAfterTokens(Callback):
    """Counts what a training reads, and ends it after so many text tokens.

    Args:
        tokens: How many.
        steps: About so many steps are expected; ten times in between the loss is told.
    """

    def __init__(self, tokens: int, steps: int) -> None:
        self.tokens, self.every = tokens, max(1, steps // 10)
        self.spent = Spent()
        self._began = 0.0
        self._losses: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch."""
        spent = self.spent
        self._losses.append(float(outputs["loss"]))
        spent.train_seconds += time.perf_counter() - self._began
        spent.train_tokens += int(batch["lengths_BT"].sum())
        spent.train_queries += int(batch["relevant_BT"].sum())
        spent.train_steps += 1
        trainer.should_stop = trainer.should_stop or spent.train_tokens >= self.tokens
        if spent.train_steps % self.every == 0 or trainer.should_stop:
            spent.curve.append([spent.train_tokens, sum(self._losses) / len(self._losses)])
            self._losses = []
            console.print(
                f"  {spent.train_tokens:,} tokens, {spent.train_seconds:,.0f} s, loss {spent.curve[-1][1]:.3f}"
            )


def hierarchy_of(name: str, ratios: list[int]) -> Hierarchy:
    """A hierarchy of the ablation.

    ``flat`` is one level of windows, each compressed with the memory of the one before. That is the chain of
    `r3mem.hierarchy.Flat`, which has no queries and so could train neither of the two query terms; here the windows
    are named by their entities, as the leaves of the other two are.

    Args:
        name: One of ``HIERARCHIES``.
        ratios: Of the windows, then of the document, paragraph and entity level.
    """
    finder = EntityFinder()
    if name == "flat":
        return MultiLevel([Level("window", FixedWindows(), WINDOW_TOKENS, ratios[0], EntityMentions())], finder)
    levels = [replace(level, ratio=r) for level, r in zip(default_levels(finder), ratios[1:], strict=True)]
    return (Refined if name == "refined" else MultiLevel)(levels, finder)


def module_of(args: Any, hierarchy: Hierarchy) -> MemoryModule:
    """An untrained model; the three differ in their hierarchy alone.

    Args:
        args: The command line of ``ablation.py``.
        hierarchy: The hierarchy.
    """
    backbone = Backbone(args.backbone, args.dtype, attn_implementation=args.attention)
    ratio = args.ratio[-1]
    options: dict[str, Any] = {"write_layer": args.write_layer, "read_layer": args.read_layer}
    if args.compressor == "edge_pool":
        options |= {"first": args.first, "last": 1 - args.first}
    return MemoryModule(
        backbone,
        compressor_of(args.compressor, backbone, ratio, **options),
        ReversibleStack([PositionBinding(backbone.width, ratio, args.share)]),
        hierarchy,
        Objective([ForwardNLL(), QueryNLL(weight=0.5)]),
        optimizer=partial(torch.optim.AdamW, lr=args.lr, weight_decay=0.0),
        warmup_steps=args.warm_up,
        calibrate=args.calibrate,
    )


def data_of(args: Any, hierarchy: Hierarchy, module: MemoryModule, seed: int) -> HierarchyDataModule:
    """The training documents in an order drawn with a seed; nothing is parted off."""
    return HierarchyDataModule(
        args.train,
        FIELDS,
        hierarchy=hierarchy,
        tokenizer=module.backbone.tokenizer,
        batch_size=args.batch,
        segments_per_row=SEGMENTS_PER_ROW,
        query_tokens=QUERY_TOKENS,
        validation_fraction=0.0,
        test_fraction=0.0,
        seed=seed,
    )


def train(name: str, seed: int, args: Any) -> tuple[R3Mem, Spent]:
    """Train a model on one hierarchy, or load it where it has been trained before; 0 tokens leave it as it starts.

    Args:
        name: One of ``HIERARCHIES``.
        seed: Of the adapters' start and of the order in which rows are read.
        args: The command line of ``ablation.py``.

    Raises:
        InputError: There is no text to train on.
    """
    folder: Path | None = None if args.save is None else args.save / f"{name}-{seed}"
    settings = {key: getattr(args, key) for key in SETTINGS} | {"hierarchy": name, "seed": seed}
    before = trained_before(folder, settings)
    if before is not None:
        console.print(f"{name}, seed {seed}: trained before, loaded from {folder}")
        model = R3Mem.from_pretrained(folder, name=args.backbone, attn_implementation=args.attention)
        return model.to(args.device), Spent(**before)
    if not args.train and args.train_tokens:
        raise InputError("nothing to train on: give --train, or --save with models that were trained before")
    seed_everything(seed, verbose=False)
    hierarchy = hierarchy_of(name, args.ratio)
    module = module_of(args, hierarchy)
    if not args.train_tokens:
        if args.calibrate:
            module.model.calibrate()
        return module.model.to(args.device).eval(), Spent()
    data = data_of(args, hierarchy, module, seed)
    data.setup("fit")
    sizes = [int(batch["lengths_BT"].sum()) for batch in data.train_dataloader()]
    planned = max(1, math.ceil(args.train_tokens * len(sizes) / sum(sizes)))
    console.print(f"{name}, seed {seed}: {sum(sizes) / len(sizes):,.0f} tokens a step, about {planned} steps")
    # What the trainer says of itself; what the data says has been said.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for pattern in QUIET:
        warnings.filterwarnings("ignore", message=pattern)
    counting = StopAfterTokens(args.train_tokens, planned)
    trainer = Trainer(
        accelerator="gpu" if args.device.startswith("cuda") else "cpu",
        devices=1,
        # The learning rate falls over the planned steps; a few more or less are needed to read as many tokens.
        max_steps=planned + math.ceil(planned / 10),
        max_epochs=-1,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[counting],
    )
    trainer.fit(module, datamodule=data)
    model, spent = module.model.to(args.device).eval(), counting.spent
    spent.parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if folder is not None:
        model.save_pretrained(folder)
        keep_training(folder, settings, spent)
    return model, spent
