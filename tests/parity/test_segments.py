"""Segments against what they stand for: nothing remembered is the base model, one step is the sum of its parts.

Shape legend: B batch, N text tokens, K virtual tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from r3mem import Backbone, MemoryState, R3Mem, Segments
from r3mem.compressors import Compressor, MeanPool, VirtualTokens
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.battery.compressor import random_text
from tests.tiny_models import FAMILIES, WIDTH, awaken_adapters, tiny_model

RATIO = 4


@pytest.fixture(params=[VirtualTokens, MeanPool])
def model(request: pytest.FixtureRequest, tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    return build_model(tiny_backbone(), request.param)


def build_model(backbone: Backbone, kind: type[Compressor] = VirtualTokens) -> R3Mem:
    awaken_adapters(backbone)
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
    made = R3Mem(backbone, kind(WIDTH, RATIO, write_layer=2, read_layer=1), stack).eval()
    made.calibrate(segment_tokens=16, segments=16)
    return made


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_memory_off_is_the_base_bit_for_bit(family: str, tiny_backbone: Callable[..., Backbone]) -> None:
    model, text = build_model(tiny_backbone(family)), random_text([12, 12])
    with model.backbone.adapters_off():
        assert torch.equal(model.likelihood(text), tiny_model(family)(text.ids_BN).logits)


@torch.no_grad()
def test_one_step_is_the_sum_of_its_parts(model: R3Mem) -> None:
    text, before = random_text([11, 5]), random_text([8, 3], seed=1)
    memory = model.step(before, logits=False).state
    step = model.step(text, memory)

    written_BKD = model.compressor(model.backbone, text, memory).slots_BKD.double()
    binding = model.decoder.couplings[0]
    rotation_DD, projection_CD = binding._rotation_DD.double(), binding._projection_CD.double()
    n_share, n_code = binding.share_dims, binding.code_dims
    basis_DE = rotation_DD[:, :n_share]
    table_VD = model.codec.table.table_VD.double()
    by_hand_BKD = written_BKD - written_BKD @ basis_DE @ basis_DE.T
    torch.testing.assert_close(step.slots_BKD.double(), by_hand_BKD, atol=1e-4, rtol=1e-4)
    for b, length in enumerate(text.lengths_B.tolist()):
        for n in range(length):
            block_DC = basis_DE[:, n % RATIO * n_code : (n % RATIO + 1) * n_code]
            by_hand_BKD[b, n // RATIO] += block_DC @ projection_CD @ table_VD[text.ids_BN[b, n]]
    torch.testing.assert_close(step.state.slots_BKD.double(), by_hand_BKD, atol=1e-4, rtol=1e-4)
    assert torch.equal(step.state.lengths_B, text.lengths_B) and step.state.ratio == RATIO
    # What the projection drops is all that is left of the text.
    left_BND = step.text_BND.double() @ (torch.eye(WIDTH).double() - projection_CD.T @ projection_CD)
    torch.testing.assert_close(step.residual_BND[text.mask_BN].double(), left_BND[text.mask_BN], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_writing_does_not_change_what_the_text_says(model: R3Mem) -> None:
    text = random_text([11, 5, 16])
    for memory in (None, model.step(random_text([8, 3, 16], seed=1), logits=False).state):
        written_BNV, read_BNV = model.step(text, memory).logits_BNV, model.likelihood(text, memory)
        torch.testing.assert_close(written_BNV[text.mask_BN], read_BNV[text.mask_BN], atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_segments_of_a_batch_are_segments_alone(model: R3Mem) -> None:
    """Rows that start, end and begin anew at different times, in one batch, as training has them."""
    steps = [([9, 6, 8], []), ([7, 0, 8], []), ([5, 4, 2], [2])]
    state: MemoryState | None = None
    alone: list[MemoryState | None] = [None] * 3
    for t, (lengths, new_rows) in enumerate(steps):
        text = random_text(lengths, seed=t)
        if state is not None:
            state = state.forget(torch.tensor([b in new_rows for b in range(3)]))
        step = model.step(text, state)
        for b, length in enumerate(lengths):
            if b in new_rows:
                alone[b] = None
            if length == 0:
                alone[b] = None
                continue
            one = model.step(Segments(text.ids_BN[b : b + 1, :length], text.lengths_B[b : b + 1]), alone[b])
            torch.testing.assert_close(step.logits_BNV[b, :length], one.logits_BNV[0], atol=5e-4, rtol=1e-3)
            n_slots = one.state.slots_BKD.shape[1]
            torch.testing.assert_close(step.state.slots_BKD[b, :n_slots], one.state.slots_BKD[0], atol=5e-4, rtol=1e-3)
            alone[b] = one.state
        state = step.state


@torch.no_grad()
def test_a_memory_is_read(model: R3Mem) -> None:
    text = random_text([9])
    read = [model.likelihood(text, model.step(random_text([16], seed=s), logits=False).state) for s in (1, 2)]
    assert not torch.allclose(read[0], read[1], atol=1e-2)
    assert not torch.allclose(read[0], model.likelihood(text), atol=1e-2)
