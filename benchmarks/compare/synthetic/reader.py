"""The small language model of the synthetic tasks: trained on full text, then every method's start.

Shape legend: B examples, T segments, N tokens of a segment, M questions of an example, Q tokens of a question, A tokens
of an answer, X tokens of all questions with answers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from benchmarks.compare.synthetic.budget import TaskBudget
from benchmarks.compare.synthetic.grid import Grid
from benchmarks.compare.tasks import SYNTHETIC_TASKS
from benchmarks.parts.harness import console
from benchmarks.parts.training import Cost, descend
from datamodules.synthetic import Examples, generator_of
from datamodules.synthetic.small_llama import small_llama
from datamodules.synthetic.vocabulary import tokenizer
from r3mem import Backbone
from r3mem.plain_data.tensor_file import read_whole, write_whole

# A level is solved, and the next one drawn, at this share of right answer tokens.
SOLVED = 0.95
# Steps at a low rate after the last level, and again while one is lost.
SETTLING = 200
# Examples of each level that tell whether it is.
CHECKED = 64
# Share of the steps after which weights that have not solved the first level are given up. Looking up is found all at
# once, some late: of multi-hop after 1,100 to 1,800 steps of 3,000.
PATIENCE = 5 / 6
# Added to the seed of the weights that are drawn in their place.
OTHER_WEIGHTS = 1_000_000
# What of a budget has a part in a start.
READER_FIELDS = (
    "width", "layers", "heads", "reader_steps", "reader_step_tokens", "reader_lr", "questions", "train_segments"
)  # fmt: skip


def backbone_of(model: LlamaForCausalLM) -> Backbone:
    """The model as a backbone without adapters, all its weights trained."""
    backbone = Backbone.wrap(model, tokenizer(), "small-llama", lora_rank=0)
    backbone.base.requires_grad_(True)
    return backbone


def asked(examples: Examples, first: int | None = None) -> tuple[Tensor, Tensor]:
    """All questions of each example with their answers, ``BX``, and ``bool BX``: the first tokens of answers, or all.

    Args:
        examples: Any.
        first: How many of each answer; None for all.
    """
    ids_BMX = torch.cat([examples.question_BMQ, examples.answer_BMA], 2)
    answer_BMX = torch.zeros_like(ids_BMX, dtype=torch.bool)
    answer_BMX[..., examples.question_BMQ.shape[2] :][..., :first] = True
    return ids_BMX.flatten(1), answer_BMX.flatten(1)


def answer_nll(logits_BXV: Tensor, ids_BX: Tensor, answer_BX: Tensor) -> tuple[Tensor, float]:
    """Mean NLL of the answers' tokens, and the share of them that come out on top."""
    chosen = answer_BX[:, 1:]
    logits_JV, target_J = logits_BXV[:, :-1][chosen], ids_BX[:, 1:][chosen]
    right = (logits_JV.detach().argmax(-1) == target_J).float().mean()
    return torch.nn.functional.cross_entropy(logits_JV, target_J), float(right)


class Start(NamedTuple):
    """What all methods start from.

    Attributes:
        model: The small model.
        cost: Of its training.
        lost: ``[value, segments]`` of the levels that it does not solve.
    """

    model: LlamaForCausalLM
    cost: Cost
    lost: list[list[int]]


def trained_reader(task: str, seed: int, budget: TaskBudget, folder: Path) -> Start:
    """The small model after training with the full text in front of the questions, made once for a grid and seed.

    It is kept beside the results: trained anew on another kind of CPU it is another start, and what was measured from
    two starts does not compare. Tasks that differ only in what memories are asked of have one start.

    Args:
        task: One of ``SYNTHETIC_TASKS``.
        seed: Of the weights and of what is drawn.
        budget: Sizes and steps.
        folder: Of the starts.

    Returns:
        The start, its weights numbers of float16.

    Raises:
        InputError: The disk refuses, or the file that is there is not whole.
    """
    grid = SYNTHETIC_TASKS[task]
    path = folder / f"seed{seed}-{_settings(grid, budget)}.safetensors"
    model = small_llama(budget.width, budget.layers, budget.heads, seed)
    if not path.is_file():
        cost, lost = _train(model, grid, seed, budget)
        weights = {k: v.half().contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
        write_whole(weights, {"cost": json.dumps(dataclasses.asdict(cost)), "lost": json.dumps(lost)}, path)
    weights, about = read_whole(path, "start")
    model.load_state_dict(weights, strict=False)
    return Start(model.eval(), Cost(**json.loads(about["cost"])), json.loads(about["lost"]))


def _settings(grid: Grid, budget: TaskBudget) -> str:
    """What tells starts apart: sizes, levels, and what a task draws."""
    settings = [getattr(budget, field) for field in READER_FIELDS]
    found = hashlib.blake2b(json.dumps([settings, grid.first, grid.streamed, grid.values]).encode(), digest_size=4)
    for value, segments in _levels(grid, budget):
        drawn = grid.build(value, segments, budget.questions).draw(2, generator_of(0, "settings"))
        found.update(repr([part.tolist() for part in dataclasses.astuple(drawn)]).encode())
    return found.hexdigest()


def _levels(grid: Grid, budget: TaskBudget) -> list[tuple[int, int]]:
    """Values and numbers of segments in the order of training."""
    first = grid.values.index(grid.first)
    levels = [(v, 1) for v in (grid.first, *grid.values[:first], *grid.values[first + 1 :])]
    at = levels.index((grid.streamed, 1)) + 1
    levels[at:at] = [(grid.streamed, s) for s in range(2, budget.train_segments + 1)]
    return levels


def _train(model: LlamaForCausalLM, grid: Grid, seed: int, budget: TaskBudget) -> tuple[Cost, list[tuple[int, int]]]:
    """Weights that find no way to look anything up are drawn anew, once, and have all steps before them again."""
    lessons = _Lessons(model, grid, seed, budget)
    began = time.perf_counter()
    if not lessons.taught(PATIENCE):
        other = small_llama(budget.width, budget.layers, budget.heads, seed + OTHER_WEIGHTS)
        model.load_state_dict(other.state_dict())
        lessons.taught(1.0)
    lessons.cost.train_seconds = time.perf_counter() - began
    return lessons.cost, lessons.lost


class _Lessons:
    """Level by level; the next begins when this one is solved, and the last ends when all are solved at once."""

    def __init__(self, model: LlamaForCausalLM, grid: Grid, seed: int, budget: TaskBudget) -> None:
        self.model, self.grid, self.seed, self.budget = model, grid, seed, budget
        self.levels = _levels(grid, budget)
        self.cost = Cost(parameters=sum(p.numel() for p in model.parameters()))
        self.lost: list[tuple[int, int]] = []
        self.generator, self.choice = generator_of(seed, "reader"), random.Random(seed)

    def taught(self, patience: float) -> bool:
        """Train to the end; ends early, and is False, where the first level is not solved after a share of the steps.

        What is not solved in the end stands in ``lost``.
        """
        model, levels, budget, choice = self.model, self.levels, self.budget, self.choice
        optimizer = torch.optim.AdamW(model.parameters(), lr=budget.reader_lr, weight_decay=0.01, betas=(0.9, 0.98))
        level, right, left, losses = 0, 0.0, 0, list[float]()
        model.train()
        for step in range(budget.reader_steps):
            if level == 0 and step >= patience * budget.reader_steps:
                return False
            again = level > 0 and choice.random() < (0.8 if left else 0.3)
            earlier = self.lost if self.lost and choice.random() < 0.5 else levels[:level]
            value, segments = choice.choice(earlier) if again else levels[level]
            loss, share, tokens = _read(model, self._drawn(value, segments))
            descend(optimizer, budget.reader_lr * min(1.0, (step + 1) / 30) * (0.1 if left else 1.0), loss)
            self.cost.train_tokens += tokens
            losses.append(float(loss.detach()))
            right = right if again else 0.9 * right + 0.1 * share
            if (step + 1) % 100 == 0:
                mean = sum(losses) / len(losses)
                self.cost.curve.append([self.cost.train_tokens, mean])
                console.print(f"full text: step {step + 1}, {levels[level]}, loss {mean:.3f}, {right:.0%} right")
                losses = []
            if left:
                left -= 1
                if not left:
                    self.lost = self._unsolved()
                    if not self.lost:
                        return True
                    left = SETTLING
            elif right > SOLVED:
                # Solved: a little more at a low rate settles it.
                left, level, right = (0, level + 1, 0.0) if level + 1 < len(levels) else (SETTLING, level, right)
        self.lost = self._unsolved()
        return True

    def _drawn(self, value: int, segments: int) -> Examples:
        task = self.grid.build(value, segments, self.budget.questions)
        per_row = segments * task.segment_tokens + 4 * self.budget.questions
        return task.draw(max(4, self.budget.reader_step_tokens // per_row), self.generator)

    @torch.no_grad()
    def _unsolved(self) -> list[tuple[int, int]]:
        generator, budget = generator_of(self.seed, "solved"), self.budget
        found = {
            at: _read(self.model, self.grid.build(*at, budget.questions).draw(CHECKED, generator))[1]
            for at in self.levels
        }
        console.print("full text: right at each level", {str(at): round(share, 2) for at, share in found.items()})
        return [at for at, share in found.items() if share <= SOLVED]


def _read(model: LlamaForCausalLM, examples: Examples) -> tuple[Tensor, float, int]:
    """Mean NLL of answers after the full text, the share that is right, and how many tokens were read."""
    ids_BX, answer_BX = asked(examples)
    whole_BS = torch.cat([examples.history_BTN.flatten(1), ids_BX], 1)
    logits_BXV = model(whole_BS, logits_to_keep=ids_BX.shape[1]).logits
    return *answer_nll(logits_BXV, ids_BX, answer_BX), whole_BS.numel()
