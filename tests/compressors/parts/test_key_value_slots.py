"""The shared tests of compressors whose memory is keys and values, and what is each one's own.

Shape legend: B batch, K virtual tokens, D width of the backbone, W width of a memory.
"""

from __future__ import annotations

from functools import partial

from r3mem.compressors import ActivationBeacon, FiveHundredXCompressor, GistTokens
from tests.battery.compressor import KeyValueBattery
from tests.tiny_models import LAYERS, WIDTH


class TestFiveHundredXCompressor(KeyValueBattery):
    build = staticmethod(partial(FiveHundredXCompressor, WIDTH))

    def is_idle(self, name: str) -> bool:
        """Of the last layer only keys and values are kept, and the reader has no adapters."""
        return f".{LAYERS - 1}." in name and not ("k_proj" in name or "v_proj" in name)


class TestActivationBeacon(KeyValueBattery):
    build = staticmethod(partial(ActivationBeacon, WIDTH))


class TestGistTokens(KeyValueBattery):
    build = staticmethod(partial(GistTokens, WIDTH))
