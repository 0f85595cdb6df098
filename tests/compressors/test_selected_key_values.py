"""The shared tests of compressors, for ``SelectedKeyValues``, and what it keeps."""

from __future__ import annotations

from functools import partial

from r3mem.compressors import SelectedKeyValues
from tests.battery.compressor import KeyValueBattery
from tests.tiny_models import HEAD_WIDTH, KEY_VALUE_HEADS, LAYERS, WIDTH


class TestSelectedKeyValues(KeyValueBattery):
    build = staticmethod(partial(SelectedKeyValues, WIDTH))
    memory_width = 2 * LAYERS * KEY_VALUE_HEADS * HEAD_WIDTH + LAYERS * KEY_VALUE_HEADS
