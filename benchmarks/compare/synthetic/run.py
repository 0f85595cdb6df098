"""One method on one synthetic task: trained from the shared start, then measured at every point of the task's grid.

Shape legend: B examples, T segments, N tokens of a segment, M questions of an example, Q tokens of a question, A tokens
of an answer, X tokens of all questions with answers, K virtual tokens, D width, V vocabulary.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from benchmarks.compare.methods import FULL_TEXT, compressor_of, decoder_of, weight_of
from benchmarks.compare.synthetic.budget import TaskBudget
from benchmarks.compare.synthetic.grid import Grid, Point
from benchmarks.compare.synthetic.order import TrainingOrder
from benchmarks.compare.synthetic.reader import answer_nll, asked, backbone_of, trained_reader
from benchmarks.compare.tasks import SYNTHETIC_TASKS
from benchmarks.parts.harness import peak_mib
from benchmarks.parts.training import Cost, train
from datamodules.synthetic import Examples, generator_of
from r3mem import ConfigError, MemoryState, R3Mem, Segments
from r3mem.memory import slots_needed
from r3mem.objectives import Autoencode, reconstruction_nll
from r3mem.reversible import IdentityCoupling, ReversibleStack

BYTES = 2  # Of a number in float16.


class Learner:
    """A method's model, used at any ratio.

    Where an exact share leaves a token less than one dimension, slots are without words.

    Args:
        model: The model.
    """

    def __init__(self, model: R3Mem) -> None:
        self.model, self._words = model, model.decoder

    @property
    def share(self) -> float:
        """Share of a slot's dimensions that carries words at the ratio in use."""
        return float(self.model.decoder.share_dims / self.model.backbone.width)

    def use(self, ratio: int) -> None:
        """Compress at a ratio from now on."""
        # At the last ratio there may have been no room for words.
        self.model.decoder = self._words
        try:
            self.model.set_ratio(ratio)
        except ConfigError:
            self.model.decoder = ReversibleStack([IdentityCoupling(ratio)])
            self.model.set_ratio(ratio)

    def remember(self, history_BTN: Tensor) -> tuple[MemoryState, list[MemoryState]]:
        """What is remembered of histories, and the memory of each of their segments.

        Segments are written side by side where none depends on another. A method that writes nothing of what it has
        read keeps the memories of all segments, one after the other.

        Args:
            history_BTN: The segments.
        """
        compressor, (n_examples, n_segments, _) = self.model.compressor, history_BTN.shape
        state, made = None, list[MemoryState]()
        if compressor.recurrent:
            for history_BN in history_BTN.unbind(1):
                made.append(self.model.step(Segments.whole(history_BN), state, logits=False).state)
                state = self.model.next_state(state, made[-1])
        else:
            written = self.model.step(Segments.whole(history_BTN.flatten(0, 1)), None, logits=False).state
            first_B = torch.arange(n_examples) * n_segments
            made = [written.rows(first_B + t) for t in range(n_segments)]
            if compressor.accumulates:
                for own in made:
                    state = self.model.next_state(state, own)
            else:
                state = MemoryState.one_after_the_other([own.slots_BKD for own in made], compressor.ratio)
        assert state is not None
        return state, made

    def reconstruction_nll(self, history_BTN: Tensor, made: list[MemoryState]) -> Tensor:
        """Mean negative log-likelihood of histories, each segment reconstructed from its own memory.

        Args:
            history_BTN: The segments.
            made: What :meth:`remember` gave of each.
        """
        text = Segments.whole(history_BTN.transpose(0, 1).flatten(0, 1))
        total, count = reconstruction_nll(self.model.reconstruct(text, MemoryState.stacked(made)), text)
        return total / count


def run_task(task: str, method: str, seed: int, budget: TaskBudget, starts: Path) -> dict[str, Any]:
    """Train a method on a task and measure it.

    Args:
        task: One of ``SYNTHETIC_TASKS``.
        method: One of ``methods.methods()``, or ``full_text`` for the shared start itself.
        seed: Of the start, of what is drawn and of the order.
        budget: Sizes, the same for all methods.
        starts: Folder of what all methods start from; made there if it is not there yet.

    Returns:
        ``metric``, ``budget``, ``cost``, ``rows``, and the training curve.
    """
    grid = SYNTHETIC_TASKS[task]
    reader, reader_cost, lost = trained_reader(task, seed, budget, starts)
    torch.manual_seed(seed)
    solved = {}
    if method == FULL_TEXT:
        cost = reader_cost
        rows, seconds = _timed(_full_text_rows(reader, grid, seed, budget), grid, budget)
    else:
        learner = Learner(_model(method, copy.deepcopy(reader), grid, budget))
        cost, solved["solved_after"] = _train(learner, method, grid, seed, budget)
        rows, seconds = _timed(lambda p: _row(learner, reader, grid, p, seed, budget), grid, budget)
    spent = {
        "train_seconds": round(cost.train_seconds, 1),
        "train_tokens": cost.train_tokens,
        "train_tokens_per_second": round(cost.train_tokens / max(1e-9, cost.train_seconds)),
        "parameters": cost.parameters,
        "evaluation_seconds": round(seconds, 1),
        "peak_mib": round(peak_mib()),
        "start_train_seconds": round(reader_cost.train_seconds, 1),
        "start_train_tokens": reader_cost.train_tokens,
        **solved,
    }
    return {
        "task": task, "method": method, "seed": seed, "metric": "exact_match", "budget": dataclasses.asdict(budget),
        "start": backbone_of(reader).fingerprint, "start_lost": lost, "cost": spent, "rows": rows, "curve": cost.curve,
    }  # fmt: skip


def _model(method: str, start: LlamaForCausalLM, grid: Grid, budget: TaskBudget) -> R3Mem:
    backbone = backbone_of(start)
    ratio = grid.smallest(budget.ratios)
    # No memory that grows with the history is cut short, where others keep all.
    most = max(budget.segments) * slots_needed(grid.build(grid.streamed, 1, 1).segment_tokens, min(budget.ratios))
    compressor = compressor_of(method, backbone, ratio, grid.longest, most)
    return R3Mem(backbone, compressor, decoder_of(method, backbone, ratio))


def _train(learner: Learner, method: str, grid: Grid, seed: int, budget: TaskBudget) -> tuple[Cost, int | None]:
    """What the training cost, and after how many steps its easiest level was solved; None if it was not."""
    model = learner.model
    generator, order = generator_of(seed, "train"), TrainingOrder(grid, budget, seed)
    own = weight_of(method, Autoencode)
    weight = own if budget.autoencode is None else budget.autoencode
    learner.use(grid.smallest(budget.ratios))
    sample = grid.build(grid.streamed, 1, 1).draw(64, generator).history_BTN.flatten().tolist()
    model.calibrate(sample, grid.build(grid.streamed, 1, 1).segment_tokens)

    def draw() -> tuple[Point, Examples]:
        point = order.next()
        task = grid.build(point.value, point.segments, budget.questions)
        per_row = point.segments * task.segment_tokens + 4 * budget.questions
        return point, task.draw(max(4, budget.step_tokens // per_row), generator)

    def loss(step: int, drawn: tuple[Point, Examples]) -> tuple[Tensor, Tensor]:
        point, examples = drawn
        learner.use(point.ratio)
        state, made = learner.remember(examples.history_BTN)
        answer_tokens = examples.answer_BMA.shape[2]
        ids_BX, answer_BX = asked(examples, order.trained_of(answer_tokens))
        nll, _ = answer_nll(model.likelihood(Segments.whole(ids_BX), state), ids_BX, answer_BX)
        order.told(float(nll.detach()), answer_tokens)
        return nll + (weight * learner.reconstruction_nll(examples.history_BTN, made) if weight else 0.0), nll

    def tokens(drawn: tuple[Point, Examples]) -> int:
        return drawn[1].history_BTN.numel() + asked(drawn[1])[0].numel()

    return train(method, model, budget.steps, budget.lr, draw, loss, tokens), order.solved_after


def _timed(row: Any, grid: Grid, budget: TaskBudget) -> tuple[list[dict[str, Any]], float]:
    began = time.perf_counter()
    with torch.no_grad():
        rows = [row(p) for p in grid.points(budget.ratios, budget.segments, budget.segment_ratios)]
    return rows, time.perf_counter() - began


def _pieces(grid: Grid, point: Point, seed: int, budget: TaskBudget) -> list[Examples]:
    """The examples of a point, the same for every method, in pieces that fit memory."""
    task, count = grid.build(point.value, point.segments, 1), budget.examples_at(point.segments)
    examples = task.draw(count, generator_of(seed, f"test {point.value} {point.segments}"))
    size = max(1, 65536 // (point.segments * task.segment_tokens))
    parts = (t.split(size) for t in (examples.history_BTN, examples.question_BMQ, examples.answer_BMA))
    return [Examples(*part) for part in zip(*parts, strict=True)]


def _row(
    learner: Learner, reader: LlamaForCausalLM, grid: Grid, point: Point, seed: int, budget: TaskBudget
) -> dict[str, Any]:
    """Exact match of answers read off the memory; and, another thing, of those looked up in text recalled from it."""
    model = learner.model
    learner.use(point.ratio)
    recalled_right = words = tokens = 0
    equal: list[Tensor] = []
    count = budget.examples_at(point.segments)
    # Beyond what the start was trained for it reads no text well, its own or recalled.
    reread = learner.share > 0 and point.segments <= budget.train_segments
    positions = size = 0
    for part in _pieces(grid, point, seed, budget):
        state, made = learner.remember(part.history_BTN)
        state = dataclasses.replace(state, slots_BKD=state.slots_BKD.half().float())
        positions = int(model.compressor.read(state).mask_BP.sum(1).max())
        # What is never read is no memory.
        size = BYTES * state.slots_BKD[0].numel() if positions else 0
        found_BA = _free_running(lambda text, state=state: model.likelihood(text, state), part)
        equal.append(found_BA == part.answer_BMA[:, 0])
        if reread:
            read_BTN = torch.stack([_recalled(model, own) for own in made], 1)
            words += int((read_BTN == part.history_BTN).sum())
            tokens += read_BTN.numel()
            found_BA = _free_running(_after(reader, read_BTN), part)
            recalled_right += int((found_BA == part.answer_BMA[:, 0]).all(1).sum())
    row = _about(grid, point, budget) | {
        "positions": positions, "bytes": size, "share": learner.share, **_right(torch.cat(equal)),
    }  # fmt: skip
    if reread:
        row |= {
            "words_recalled": words / tokens,
            "exact_match_of_full_text_reader_on_recalled_text": recalled_right / count,
        }
    return row


def _full_text_rows(
    reader: LlamaForCausalLM, grid: Grid, seed: int, budget: TaskBudget
) -> Callable[[Point], dict[str, Any]]:
    """Exact match of the shared start with the text itself in front of the question, which no ratio changes."""

    @cache
    def right(value: int, segments: int) -> dict[str, float]:
        parts = _pieces(grid, Point(value, segments, 1), seed, budget)
        found = [_free_running(_after(reader, part.history_BTN), part) == part.answer_BMA[:, 0] for part in parts]
        return _right(torch.cat(found))

    def row(point: Point) -> dict[str, Any]:
        about = _about(grid, point, budget)
        positions = about["history_tokens"]
        found = right(point.value, point.segments)
        return about | {"positions": positions, "bytes": 2 * positions, "share": 0.0, **found}

    return row


def _right(right_BA: Tensor) -> dict[str, float]:
    """Share of answers that are right as a whole and, where they are longer than a token, of their tokens."""
    found = {"exact_match": float(right_BA.all(1).float().mean())}
    return found | ({"free_running_accuracy": float(right_BA.float().mean())} if right_BA.shape[1] > 1 else {})


def _about(grid: Grid, point: Point, budget: TaskBudget) -> dict[str, Any]:
    task = grid.build(point.value, point.segments, 1)
    return {
        grid.axis: point.value, "ratio": point.ratio, "segments": point.segments,
        "history_tokens": task.segments * task.segment_tokens, "chance": task.chance,
        "exact_match_n": budget.examples_at(point.segments),
    }  # fmt: skip


def _after(reader: LlamaForCausalLM, history_BTN: Tensor) -> Any:
    """Logits of the small model with the full text in front."""
    history_BS = history_BTN.flatten(1)

    def logits(text: Segments) -> Tensor:
        whole_BS = torch.cat([history_BS, text.ids_BN], 1)
        found: Tensor = reader(whole_BS, logits_to_keep=text.ids_BN.shape[1]).logits
        return found

    return logits


def _free_running(logits_of: Any, examples: Examples) -> Tensor:
    """The answers ``BA`` to the first questions, greedy, each token after those found before it."""
    ids_BX = examples.question_BMQ[:, 0]
    for _ in range(examples.answer_BMA.shape[2]):
        next_B1 = logits_of(Segments.whole(ids_BX))[:, -1].argmax(-1, keepdim=True)
        ids_BX = torch.cat([ids_BX, next_B1], 1)
    return ids_BX[:, examples.question_BMQ.shape[2] :]


def _recalled(model: R3Mem, state: MemoryState) -> Tensor:
    """Tokens ``BN`` recalled from one segment's memory in float16."""
    n_tokens = int(state.lengths_B.max())
    read, _ = model.codec.read(state.slots_BKD.half().float(), state.lengths_B, n_tokens)
    return read.ids_BN
