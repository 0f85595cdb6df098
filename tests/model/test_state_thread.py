"""What rows remember from segment to segment and from batch to batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from r3mem import Backbone, MemoryState, R3Mem, Segments
from r3mem.compressors import AccumulatingSummaries, RecurrentMemory
from r3mem.hierarchy import Flat
from r3mem.model.state_thread import StateThread, through_segments
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.tiny_models import RATIO, SEGMENT, WIDTH

LENGTHS = [[16, 9], [16, 0], [7, 0]]


@pytest.fixture
def model(tiny_backbone: Callable[..., Backbone], request: pytest.FixtureRequest) -> R3Mem:
    torch.manual_seed(0)
    compressor = getattr(request, "param", RecurrentMemory)(WIDTH, RATIO)
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
    return R3Mem(tiny_backbone(), compressor, stack, Flat(SEGMENT)).eval()


def texts(lengths: list[list[int]] = LENGTHS) -> list[Segments]:
    """Three segments of two rows; the second row ends after the first."""
    generator = torch.Generator().manual_seed(0)
    return [Segments.pad([torch.randint(0, 256, (n,), generator=generator).tolist() for n in row]) for row in lengths]


def state(*lengths: int, ratio: int = RATIO) -> MemoryState:
    return MemoryState(torch.randn(len(lengths), 4, WIDTH), torch.tensor(lengths), ratio)


@torch.no_grad()
@pytest.mark.parametrize("model", [RecurrentMemory, AccumulatingSummaries], indirect=True)
def test_a_row_remembers_what_it_would_alone(model: R3Mem) -> None:
    """The rows of a batch, and each of them alone up to its end."""

    def retain(t: int, text: Segments, before: MemoryState | None) -> MemoryState:
        return model.step(text, before, logits=False).state

    together = through_segments(model, texts(), retain)
    assert together is not None
    for row, count in ((0, 3), (1, 1)):
        own = [Segments(text.ids_BN[row : row + 1], text.lengths_B[row : row + 1]) for text in texts()[:count]]
        alone = through_segments(model, own, retain)
        assert alone is not None
        found, mask_K = together.rows(torch.tensor([row])), alone.mask_BK[0]
        assert int(found.mask_BK.sum()) == int(mask_K.sum())
        torch.testing.assert_close(found.slots_BKD[found.mask_BK], alone.slots_BKD[alone.mask_BK], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cut_every, cut", [(None, []), (1, [1, 2]), (2, [2]), (3, [])])
def test_the_memory_is_cut_after_so_many_segments(model: R3Mem, cut_every: int | None, cut: list[int]) -> None:
    found: list[int] = []

    def retain(t: int, text: Segments, before: MemoryState | None) -> MemoryState:
        if before is not None and not before.slots_BKD.requires_grad:
            found.append(t)
        return model.step(text, before, logits=False).state

    last = through_segments(model, texts([[16, 16]] * 3), retain, cut_every=cut_every)
    assert found == cut and last is not None and last.slots_BKD.requires_grad


def test_no_segments_leave_what_was_remembered(model: R3Mem) -> None:
    before = state(16, 16)
    assert through_segments(model, [], lambda *_: before) is None
    assert through_segments(model, [], lambda *_: before, before) is before


def test_rows_that_begin_anew_forget(model: R3Mem) -> None:
    thread = StateThread(model)
    some_B, none_B, all_B = (torch.tensor(marks) for marks in ([True, False], [False, False], [True, True]))
    assert thread.begin(some_B) is None, "nothing was carried"
    carried = state(16, 8)
    carried.slots_BKD.requires_grad_()
    thread.keep(carried)
    thread.keep(None)
    assert thread.state is not None and not thread.state.slots_BKD.requires_grad
    for reset_B, lengths in ((some_B, [0, 8]), (none_B, [16, 8])):
        found = thread.begin(reset_B)
        assert found is not None and found.lengths_B.tolist() == lengths
    assert thread.begin(all_B) is None and thread.begin(None) is None
    empty = thread.begin(all_B, always=True)
    assert empty is not None and empty.lengths_B.tolist() == [0, 0]
    assert thread.begin(torch.tensor([False])) is None, "other rows"
    model.set_ratio(2 * RATIO)
    assert thread.begin(none_B) is None, "slots of another ratio"
    thread.drop()
    assert thread.state is None


def test_empty_rows_are_filled_from_before() -> None:
    before, after = state(16, 12), state(8, 0)
    filled = after.filled_from(before)
    assert filled.lengths_B.tolist() == [8, 12]
    assert torch.equal(filled.slots_BKD, torch.stack([after.slots_BKD[0], before.slots_BKD[1]]))
    for n_slots in (2, 6):  # As of a batch whose last segments are shorter than those before, or longer.
        other = MemoryState(torch.randn(2, n_slots, WIDTH), torch.tensor([8, 0]), RATIO)
        filled = other.filled_from(before)
        assert filled.slots_BKD.shape[1] == max(4, n_slots) and filled.lengths_B.tolist() == [8, 12]
        assert torch.equal(filled.slots_BKD[0, :2], other.slots_BKD[0, :2])
        assert torch.equal(filled.slots_BKD[1, :4], before.slots_BKD[1])
        full = MemoryState(torch.randn(2, n_slots, WIDTH), torch.tensor([8, 8]), RATIO)
        assert full.filled_from(before) is full
