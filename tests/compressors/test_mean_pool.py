"""The shared tests of compressors, for ``MeanPool``."""

from functools import partial

from r3mem.compressors import MeanPool
from tests.battery.compressor import HiddenStateBattery
from tests.tiny_models import WIDTH


class TestMeanPool(HiddenStateBattery):
    build = staticmethod(partial(MeanPool, WIDTH, write_layer=2, read_layer=1))
