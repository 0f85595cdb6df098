"""The shared tests of scorers, for ``Recency``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from r3mem import Backbone, MemoryState
from r3mem.compressors import SelectedKeyValues
from r3mem.compressors.scorers import Recency, Scorer
from tests.battery.compressor import random_text
from tests.battery.scorer import Plain, ScorerBattery
from tests.tiny_models import WIDTH


class TestRecency(ScorerBattery):
    build = staticmethod(Recency)

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        _, layers, heads, n_keys = plain.observed.shape
        return (1.0 + torch.arange(n_keys)).expand(layers, heads, -1)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(32, 32, 32), (48, 24, 30), (24, 48, 24)])
def test_the_state_of_a_stream_is_its_sinks_and_its_latest_segment(
    lengths: tuple[int, ...], tiny_backbone: Callable[..., Backbone]
) -> None:
    """As ``configs/model/streaming_llm.yaml`` has it: a state of 8 slots, of which the first 4 tokens take half."""
    backbone = tiny_backbone().eval()
    compressor = SelectedKeyValues(WIDTH, 3, Recency(), sinks=4, max_slots=8, decay=0.5)
    width = backbone.key_values.width
    state = None
    for seed, length in enumerate(lengths):
        text = random_text([length], seed)
        slots_BKW = compressor(backbone, text, state).slots_BKD
        # Behind a memory the first slots are that memory's sinks again.
        last_BKW = slots_BKW[:, -4:, :width]
        sinks_BKW = slots_BKW[:, :4, :width] if state is None else state.slots_BKD[:, :4, :width]
        state = compressor.next_state(backbone, state, MemoryState(slots_BKW, text.lengths_B, 3))
        assert torch.equal(state.slots_BKD[:, :4, :width], sinks_BKW)
        assert torch.equal(state.slots_BKD[:, 4:, :width], last_BKW)
