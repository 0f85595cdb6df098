"""What trainings of the benchmarks draw, step by step."""

from __future__ import annotations

import random

import pytest

from benchmarks.parts.training import Reshuffled
from r3mem import InputError


def test_all_are_drawn_before_one_comes_again() -> None:
    draw = Reshuffled(range(6), 2, random.Random(0))
    rounds = [[i for _ in range(3) for i in draw()] for _ in range(4)]
    assert all(sorted(drawn) == [*range(6)] for drawn in rounds) and len({*map(tuple, rounds)}) > 1


def test_those_that_are_left_are_passed_over_or_kept() -> None:
    draw = Reshuffled(range(3), 2, random.Random(0))
    assert all(len(set(draw())) == 2 for _ in range(20))
    assert sorted(Reshuffled(range(3), 6, random.Random(0), keep=True)()) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(("items", "keep"), [(range(3), False), (range(0), True)])
def test_too_few_are_refused(items: range, keep: bool) -> None:
    with pytest.raises(InputError, match=f"{len(items)} to draw 4 a step from"):
        Reshuffled(items, 4, random.Random(0), keep)
