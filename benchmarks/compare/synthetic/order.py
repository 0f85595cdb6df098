"""The order in which a method meets a synthetic task: one level until it is solved, then what is harder, by and by."""

from __future__ import annotations

import random
from collections import deque

from benchmarks.compare.synthetic.budget import TaskBudget
from benchmarks.compare.synthetic.grid import Grid, Point

# Steps whose mean tells whether what is trained is solved.
LOOKED_BACK = 20


class TrainingOrder:
    """What a method's steps are drawn at, and how much of an answer they train.

    Training stays at the easiest level, in one segment, until that is solved or a share of the steps is over: what is
    learned of a pair there (its order last of all) is not learned any more among longer histories, more pairs and
    higher ratios. The easiest level is the one that the start's own training began with: of fewer pairs one learns to
    guess before one looks up. Meanwhile an answer's first token is trained alone until it is solved, then twice as
    many, until it is the whole answer: of all tokens at once one learns first which there are, and keeps that.

    What is harder comes in over the next share of the steps, and everything is drawn in the rest.

    Args:
        grid: The task.
        budget: Steps, the shares of them, ratios and segments.
        seed: Of what is drawn.
    """

    def __init__(self, grid: Grid, budget: TaskBudget, seed: int) -> None:
        self._grid, self._budget = grid, budget
        self._choice = random.Random(seed)
        self._last: deque[float] = deque(maxlen=LOOKED_BACK)
        self._drawn, self._left, self._tokens = 0, round(budget.held * budget.steps), 1
        self.solved_after: int | None = None
        """Steps after which the easiest level was solved; None where it was left unsolved."""

    def next(self) -> Point:
        """Where the next step is drawn."""
        grid, budget, choice = self._grid, self._budget, self._choice
        reach = min(1.0, max(0, self._drawn + 1 - self._left) / (budget.rising * budget.steps))
        self._drawn += 1
        from_first = grid.values[grid.values.index(grid.first) :]
        value = choice.choice(_easiest(from_first, reach) if reach < 1 else grid.values)
        ratios = _easiest(budget.ratios, reach) if grid.vectors is None else grid.ratios(value, budget.ratios)
        streams = value <= grid.streamed and grid.vectors is None
        longest = max(1, round(reach * budget.train_segments)) if streams else 1
        return Point(value, choice.randint(1, longest) if choice.random() < 0.5 else 1, choice.choice(ratios))

    def trained_of(self, answer_tokens: int) -> int:
        """How many tokens of an answer of so many the step that was drawn last trains, from its first on."""
        return min(self._tokens, answer_tokens) if self._held else answer_tokens

    def told(self, nll: float, answer_tokens: int) -> None:
        """Take in what became of the step that was drawn last.

        Args:
            nll: Mean of the tokens that it trained.
            answer_tokens: Of a whole answer.
        """
        self._last.append(nll)
        if not self._held or len(self._last) < LOOKED_BACK or sum(self._last) / LOOKED_BACK >= self._budget.solved_nll:
            return
        self._last.clear()
        if self._tokens < answer_tokens:
            self._tokens *= 2
        else:
            self.solved_after = self._left = self._drawn

    @property
    def _held(self) -> bool:
        return self.solved_after is None and self._drawn <= self._left


def _easiest(values: tuple[int, ...], share: float) -> tuple[int, ...]:
    return values[: max(1, round(share * len(values)))]
