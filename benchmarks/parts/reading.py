"""The model that reads everything of a table: how likely the last tokens of a text are behind what it reads.

Shape legend: B memories, N tokens of a text.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from r3mem import Backbone, MemoryState, R3Mem, Segments
from r3mem.backbone.next_tokens import Scores
from r3mem.compressors import SelectedKeyValues
from r3mem.compressors.scorers.benefit_weighted import next_nll


def add_model(p: argparse.ArgumentParser) -> None:
    """The argument that names the model."""
    p.add_argument(
        "--model", default=None, metavar="DIR",
        help="a saved model or r3mem:smollm2-135m, whose adapters then write and read; --backbone as it is if left out",
    )  # fmt: skip


def model_of(args: argparse.Namespace) -> R3Mem:
    """The saved model, or an untrained one of selected keys and values without adapters."""
    if args.model is not None:
        return R3Mem.from_pretrained(args.model, dtype=args.dtype).eval()
    backbone = Backbone(args.backbone, args.dtype, lora_rank=0)
    return R3Mem(backbone, SelectedKeyValues(backbone.width, max(args.ratio))).eval()


class Reader:
    """Reads texts behind memories and behind nothing, always with the model's adapters."""

    def __init__(self, model: R3Mem) -> None:
        self.model, self.backbone = model, model.backbone

    @torch.no_grad()
    def after(self, ids_N: Tensor, memories: Sequence[MemoryState], counted: int) -> list[float]:
        """Mean NLL of a text's last ``counted`` tokens behind each of some memories of one ratio, nats a token."""
        state = MemoryState.stacked(memories)
        text = Segments.whole(ids_N.expand(len(memories), -1))
        return self._means(self.model.scores(text, state), text, counted)

    @torch.no_grad()
    def after_text(self, ids_N: Tensor, counted: int) -> float:
        """Mean NLL of a text's last ``counted`` tokens, fewer than it has, with nothing before it; nats a token."""
        text = Segments.whole(ids_N[None])
        with self.backbone.head_apart():
            scores = self.backbone(text).scores
        return self._means(scores, text, counted)[0]

    @staticmethod
    def _means(scores: Scores, text: Segments, counted: int) -> list[float]:
        return [float(row_N.mean()) for row_N in next_nll(scores, text)[:, -counted - 1 : -1]]
