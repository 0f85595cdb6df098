"""The order of training: held at the easiest level until that is solved, then harder, by and by."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.compare.synthetic.budget import TaskBudget
from benchmarks.compare.synthetic.grid import Point
from benchmarks.compare.synthetic.order import LOOKED_BACK, TrainingOrder
from benchmarks.compare.tasks import SYNTHETIC_TASKS

GRID = SYNTHETIC_TASKS["associative_recall"]
BUDGET = dataclasses.replace(TaskBudget.full("associative_recall"), steps=400, held=0.5, rising=0.25)
EASIEST = Point(8, 1, 4)


def drawn(nlls: list[float], seed: int = 0, task: str = "associative_recall") -> tuple[TrainingOrder, list[Point]]:
    """The points of a training whose steps have these losses."""
    order, points = TrainingOrder(SYNTHETIC_TASKS[task], BUDGET, seed), []
    for nll in nlls:
        points.append(order.next())
        order.told(nll, 1)
    return order, points


def test_a_level_that_is_never_solved_is_left_when_its_share_is_over() -> None:
    order, points = drawn([1.1] * 400)
    assert order.solved_after is None
    assert points[:200] == [EASIEST] * 200 and points[200:] != [EASIEST] * 200


@pytest.mark.parametrize("solved", [LOOKED_BACK, 60, 200])
def test_a_level_is_left_when_the_mean_of_some_steps_says_that_it_is_solved(solved: int) -> None:
    # One step above is too much for the mean of so many.
    order, points = drawn([1.1] * (solved - LOOKED_BACK) + [0.48] * LOOKED_BACK * 20)
    assert order.solved_after == solved
    assert points[:solved] == [EASIEST] * solved
    # From there on it takes as long as it does for everyone.
    rising = points[solved : solved + 99]
    assert {(p.value, p.ratio) for p in rising[:15]} == {(8, 4)} and {p.segments for p in rising[:30]} == {1}
    assert {p.value for p in rising} == {8, 16, 32, 96} and {p.segments for p in rising} >= {1, 2}
    assert {p.ratio for p in rising} == {4, 8, 16}
    # Fewer pairs come last.
    rest = points[solved + 99 :]
    assert {p.value for p in rest} == {4, 8, 16, 32, 96} and {p.segments for p in rest} == {1, 2, 3, 4}
    assert max(p.value for p in rest if p.segments > 1) == GRID.streamed


def test_what_is_solved_later_was_not_the_easiest_level() -> None:
    order, _ = drawn([1.1] * 200 + [0.1] * 200)
    assert order.solved_after is None


def trained(order: TrainingOrder, nlls: list[float], answer_tokens: int) -> list[int]:
    """How many tokens of an answer steps with these losses train."""
    found = []
    for nll in nlls:
        order.next()
        found.append(order.trained_of(answer_tokens))
        order.told(nll, answer_tokens)
    return found


def test_an_answer_comes_in_token_by_token_while_the_easiest_level_is_held() -> None:
    order = TrainingOrder(GRID, BUDGET, 0)
    assert trained(order, [1.1] * 30, 6) == [1] * 30
    # What was lost before the first token was solved does not count for the next.
    assert trained(order, [0.0] * 71, 6) == [1] * 11 + [2] * LOOKED_BACK + [4] * LOOKED_BACK + [6] * LOOKED_BACK
    assert order.solved_after == 101
    assert trained(order, [1.1] * 10, 6) == [6] * 10


def test_what_is_left_unsolved_is_trained_whole_from_then_on() -> None:
    order = TrainingOrder(GRID, BUDGET, 0)
    assert trained(order, [1.1] * 400, 2) == [1] * 200 + [2] * 200 and order.solved_after is None


def test_an_order_follows_its_seed() -> None:
    first, again, other = (drawn([1.1] * 400, seed)[1] for seed in (0, 0, 1))
    assert first == again != other


def test_with_so_many_vectors_a_ratio_follows_the_pairs() -> None:
    _, points = drawn([1.1] * 400, task="associative_recall_8")
    assert {(p.value, p.segments, p.ratio) for p in points} == {
        (8, 1, 4),
        (16, 1, 8),
        (32, 1, 16),
        (96, 1, 48),
        (4, 1, 2),
    }
