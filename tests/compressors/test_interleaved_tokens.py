"""The shared tests of compressors, for ``InterleavedTokens``, and what is its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from r3mem import Backbone, ConfigError, MemoryState, Segments
from r3mem.compressors import InterleavedTokens
from tests.battery.compressor import CompressorBattery
from tests.tiny_models import WIDTH


class TestInterleavedTokens(CompressorBattery):
    build = staticmethod(partial(InterleavedTokens, WIDTH))


@torch.no_grad()
def test_a_slot_starts_as_the_first_token_it_covers(
    tiny_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, compressor = tiny_backbone().eval(), InterleavedTokens(WIDTH, 3)
    compressor.write_D.fill_(0.5)
    starts: list[torch.Tensor] = []
    forward = backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda *a, **k: starts.append(a[2]) or forward(*a, **k))
    compressor(backbone, Segments.pad([[9, 8, 7, 6, 5, 4, 3], [5, 6]]), None, logits=False)
    torch.testing.assert_close(starts[0][0], backbone.embed(torch.tensor([9, 6, 3])) + 0.5)
    torch.testing.assert_close(starts[0][1, :1], backbone.embed(torch.tensor([5])) + 0.5)


@torch.no_grad()
def test_a_slot_knows_the_text_before_it_alone(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone().eval()
    compressor = InterleavedTokens(WIDTH, 3)

    def slots(*ids: int) -> torch.Tensor:
        return compressor(backbone, Segments.pad([list(ids)]), None, logits=False).slots_BKD[0]

    whole = slots(9, 8, 7, 6, 5, 4, 3)
    other_end = slots(9, 8, 7, 6, 5, 2, 1)
    torch.testing.assert_close(whole[:1], other_end[:1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(whole[1], other_end[1], atol=1e-3)
    # Tokens behind a slot see it: what is written in them changes with the learned vector.
    compressor.write_D.fill_(1.0)
    assert not torch.allclose(whole[1], slots(9, 8, 7, 6, 5, 4, 3)[1], atol=1e-3)


@torch.no_grad()
def test_all_segments_are_read(tiny_backbone: Callable[..., Backbone]) -> None:
    compressor = InterleavedTokens(WIDTH, 4, max_slots=3)
    first, second = (MemoryState(torch.full((1, 2, WIDTH), v), torch.tensor([8]), 4) for v in (1.0, 2.0))
    backbone = tiny_backbone()
    state = compressor.next_state(backbone, compressor.next_state(backbone, None, first), second)
    assert state.slots_BKD[0, :, 0].tolist() == [1.0, 2.0, 2.0] and state.lengths_B.tolist() == [12]
    prefix = compressor.read(state)
    # One slot of the first segment is left, two of the second; each segment stands as if it were the only one.
    assert prefix.positions_BP.tolist() == [[0, 0, 1]] and prefix.start_B.tolist() == [2]
    assert prefix.segment_BP is not None and prefix.segment_BP.tolist() == [[0, 1, 1]]
    # Rows of other lengths, one of which holds nothing.
    held = MemoryState(torch.ones(3, 2, WIDTH), torch.tensor([8, 3, 0]), 4)
    assert compressor.read(held).start_B.tolist() == [2, 1, 0]


@torch.no_grad()
@pytest.mark.parametrize("pack", [None, 64])
def test_segments_are_read_side_by_side_in_any_order(tiny_backbone: Callable[..., Backbone], pack: int | None) -> None:
    backbone = tiny_backbone().eval()
    backbone.pack = pack
    compressor = InterleavedTokens(WIDTH, 3)
    texts = [Segments.pad([[9, 8, 7, 6, 5], [1, 2]]), Segments.pad([[4, 3, 2], []]), Segments.pad([[8], [7, 7, 1, 9]])]
    question = Segments.pad([[5, 6, 7], [3]])
    written = [
        MemoryState(compressor(backbone, text, None, logits=False).slots_BKD, text.lengths_B, 3) for text in texts
    ]

    def answer(order: list[int]) -> torch.Tensor:
        state = None
        for i in order:
            # What was remembered before plays no part in what is written.
            if state is not None:
                again = compressor(backbone, texts[i], state, logits=False).slots_BKD
                torch.testing.assert_close(again, written[i].slots_BKD)
            state = compressor.next_state(backbone, state, written[i])
        assert state is not None
        logits_BNV = backbone(question, compressor.read(state)).logits_BNV
        generated = backbone.generate([[5, 6, 7], [3]], compressor.read(state), max_new_tokens=4)
        assert len(generated) == 2
        return logits_BNV[question.mask_BN]

    expected = answer([0, 1, 2])
    torch.testing.assert_close(answer([2, 0, 1]), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(answer([0, 1]), expected, atol=1e-3)


@torch.no_grad()
def test_the_likelihood_is_that_of_the_text_behind_the_memory(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone().eval()
    compressor = InterleavedTokens(WIDTH, 3)
    text = Segments.pad([[4, 3, 2, 1]])
    memory = MemoryState(torch.ones(1, 2, WIDTH), torch.tensor([6]), 3)
    for held in (None, memory):
        expected = backbone(text, None if held is None else compressor.read(held)).logits_BNV
        torch.testing.assert_close(compressor(backbone, text, held).logits_BNV, expected)


def test_a_state_holds_something() -> None:
    with pytest.raises(ConfigError, match="at least 1 slot"):
        InterleavedTokens(WIDTH, max_slots=0)
