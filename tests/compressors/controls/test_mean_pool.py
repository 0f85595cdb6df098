"""The shared tests of compressors, for ``MeanPool``."""

from functools import partial

import torch

from r3mem.compressors import MeanPool
from r3mem.memory import MemoryState
from tests.battery.compressor import HiddenStateBattery
from tests.tiny_models import WIDTH


class TestMeanPool(HiddenStateBattery):
    build = staticmethod(partial(MeanPool, WIDTH, write_layer=2, read_layer=1))


def test_slots_stand_in_the_middle_of_what_they_cover() -> None:
    memory = MemoryState(torch.zeros(2, 3, WIDTH), torch.tensor([10, 4]), ratio=4)
    assert MeanPool(WIDTH, 4).positions(memory).tolist() == [[1, 5, 9]] * 2
