"""The shared tests of compressors, for the controls, and what each stands for.

Shape legend: B batch, N text tokens, K virtual tokens, D width, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from r3mem import Backbone, MemoryState, R3Mem, Segments
from r3mem.compressors import Compressor, LastTokens, NoMemory, RandomMemory
from r3mem.hierarchy import Flat
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.battery.compressor import CompressorBattery, random_text
from tests.tiny_models import RATIO, SEGMENT, TEXT, WIDTH


class TestLastTokens(CompressorBattery):
    build = staticmethod(partial(LastTokens, WIDTH))


class TestNoMemory(CompressorBattery):
    build = staticmethod(partial(NoMemory, WIDTH))
    reads = False


class TestRandomMemory(CompressorBattery):
    build = staticmethod(partial(RandomMemory, WIDTH))


@torch.no_grad()
def test_the_last_tokens_are_read_as_the_text_they_are(backbone: Backbone) -> None:
    """Of 11 and of 5 tokens at ratio 4, the last 3 and the last 2."""
    before, text, compressor = random_text([11, 5]), random_text([6, 9], seed=1), LastTokens(WIDTH, 4)
    state = MemoryState(compressor(backbone, before, None, logits=False).slots_BKD, before.lengths_B, 4)
    read_BNV = compressor(backbone, text, state).logits_BNV
    for b, (n_before, n_text, kept) in enumerate([(11, 6, 3), (5, 9, 2)]):
        ids_N = torch.cat([before.ids_BN[b, n_before - kept : n_before], text.ids_BN[b, :n_text]])
        raw_NV = backbone(Segments.whole(ids_N[None])).logits_BNV[0, kept:]
        torch.testing.assert_close(read_BNV[b, :n_text], raw_NV, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_nothing_is_read_of_no_memory(backbone: Backbone) -> None:
    text, compressor = random_text([6, 9]), NoMemory(WIDTH, 4)
    state = MemoryState(torch.randn(2, 3, WIDTH), torch.tensor([12, 7]), 4)
    written = compressor(backbone, text, state)
    assert (written.slots_BKD == 0).all()
    torch.testing.assert_close(written.logits_BNV, backbone(text).logits_BNV, atol=1e-5, rtol=1e-5)
    prompts = [[1, 2, 3], [4]]
    assert backbone.generate(prompts, compressor.read(state), max_new_tokens=4) == backbone.generate(
        prompts, max_new_tokens=4
    )


@torch.no_grad()
def test_noise_is_the_text_s_own(backbone: Backbone) -> None:
    text, compressor = random_text([200, 200, 7]), RandomMemory(WIDTH, 2, spread=3.0)
    compressor.calibrate(backbone, text, lambda slots_BKD: slots_BKD)

    def slots(made: Compressor, of: Segments = text) -> torch.Tensor:
        return made(backbone, of, None, logits=False).slots_BKD

    before = torch.random.get_rng_state()
    first = slots(compressor)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(slots(compressor), first)
    assert torch.equal(slots(compressor, Segments(text.ids_BN[2:, :7], text.lengths_B[2:]))[0], first[2, :4])
    assert not torch.allclose(first[0], first[1], atol=0.1)
    other = RandomMemory(WIDTH, 2, spread=3.0, seed=1)
    other.load_state_dict(compressor.state_dict())
    assert not torch.allclose(slots(other)[0], first[0], atol=0.1)
    assert float(first[:2].std()) == pytest.approx(3 * float(backbone.embedding_VD.std()), rel=0.05)


@pytest.mark.parametrize("kind", [LastTokens, NoMemory, RandomMemory])
def test_texts_are_recalled_with_any_control(kind: type[Compressor], backbone: Backbone) -> None:
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
    model = R3Mem(backbone, kind(WIDTH, RATIO), stack, Flat(SEGMENT))
    memory = model.retain(TEXT)
    assert model.recall(memory) == TEXT
    assert isinstance(model.generate("Sir", memory, max_new_tokens=2), str)
