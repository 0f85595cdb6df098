"""How a text was fed does not matter: any pieces give the records that all of it gives at once, bit for bit."""

from __future__ import annotations

import random

import pytest
import torch

from r3mem import FingerprintError, Memory, R3Mem
from tests.tiny_models import SEGMENT, TEXT, VOCABULARY, same_memory


def fed(model: R3Mem, ids: list[int], pieces: int | list[int], **options: object) -> Memory:
    """The memory of token ids that were given in pieces."""
    sizes = [pieces] * len(ids) if isinstance(pieces, int) else pieces
    memory, at = None, 0
    for size in sizes:
        if at < len(ids):
            memory = model.retain(ids[at : at + size], memory, **options)  # type: ignore[arg-type]
            at += size
    assert memory is not None and at >= len(ids)
    return memory


@pytest.fixture(params=["model", "selected"])
def any_model(request: pytest.FixtureRequest) -> R3Mem:
    """Of a compressor whose state is the last segment, and of one whose state is all of them, beyond its slots."""
    found: R3Mem = request.getfixturevalue(request.param)
    return found


def some_ids(n: int) -> list[int]:
    return random.Random(n).choices(range(VOCABULARY), k=n)


@pytest.mark.parametrize("pieces", [1, 7, SEGMENT, SEGMENT + 1, 64])
@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_pieces_of_any_size(any_model: R3Mem, pieces: int, precision: str) -> None:
    ids = some_ids(7 * SEGMENT + 5)
    once, memory = any_model.retain(ids, precision=precision), fed(any_model, ids, pieces, precision=precision)
    assert same_memory(memory, once) and memory.begins == once.begins == 0
    assert memory.nbytes == once.nbytes and memory.n_slots == once.n_slots
    assert torch.equal(any_model.state(memory).slots_BKD, any_model.state(once).slots_BKD)


@pytest.mark.parametrize("length", [1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT, 2 * SEGMENT + 1])
def test_a_cut_anywhere(any_model: R3Mem, length: int) -> None:
    ids = some_ids(length + 3)
    once = any_model.retain(ids)
    for cut in range(1, len(ids)):
        assert same_memory(fed(any_model, ids, [cut, len(ids)]), once)


def test_strings_in_pieces(model: R3Mem) -> None:
    once, memory = model.retain(TEXT), None
    for char in TEXT:
        memory = model.retain(char, memory)
    assert memory is not None and same_memory(memory, once) and model.recall(memory) == TEXT


def test_several_texts_go_on_each_from_its_own(model: R3Mem) -> None:
    rows = [some_ids(n) for n in (5, SEGMENT, 40)]
    more = [some_ids(n + 1) for n in (30, 3, SEGMENT)]
    memories = model.retain(more, model.retain(rows))
    for memory, row, behind in zip(memories, rows, more, strict=True):
        assert model.recall_ids(memory) == row + behind
        torch.testing.assert_close(memory.data_TKD, model.retain(row + behind).data_TKD, atol=5e-2, rtol=0)


def test_in_constant_memory(model: R3Mem) -> None:
    ids = some_ids(3 * SEGMENT + 3)
    once = model.retain(ids)
    for pieces in (1, 7, SEGMENT):
        last = fed(model, ids, pieces, records="last")
        assert len(last.digests) == 2 and same_memory(last, once.part(-2, 2)) and last.begins == 2 * SEGMENT
    assert len(fed(model, ids[: 3 * SEGMENT], 7, records="last").digests) == 1


def test_an_open_record_without_the_one_before_it_is_left_as_it_is(model: R3Mem) -> None:
    ids = some_ids(SEGMENT + 3)
    alone = model.retain(ids).part(-1)
    gone_on = model.retain(ids[:4], alone)
    assert gone_on.lengths_T.tolist() == [3, 4] and model.recall_ids(gone_on) == ids[SEGMENT:] + ids[:4]
    assert same_memory(gone_on.part(0), alone) and gone_on.begins == SEGMENT


def test_what_was_given_stays_whole(model: R3Mem) -> None:
    before = model.retain(TEXT)
    copy = Memory.join([before])
    with pytest.raises(FingerprintError, match="an impossible state"):
        model.retain([1, 2], _broken(before))
    assert same_memory(before, copy) and model.recall(before) == TEXT


def _broken(memory: Memory) -> Memory:
    changed = Memory.join([memory])
    changed.fingerprint = {**memory.fingerprint, "stack": "an impossible state"}
    return changed
