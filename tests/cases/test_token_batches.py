"""A list of texts is retained in passes of a budget of tokens; what comes of it is what each text gives alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from r3mem import Backbone, ConfigError, R3Mem
from r3mem.compressors import Compressor, SelectedKeyValues, VirtualTokens
from r3mem.hierarchy import Flat
from r3mem.model.token_batches import token_batches
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.tiny_models import RATIO, SEGMENT, TEXT, WIDTH

#: 1 to 3 segments, in no order.
LENGTHS = [40, 3, 16, 1, 33, 17, 2, 48, 9, 25, 5, 16]
TEXTS = [(TEXT * 2).encode()[n : n + length].decode("latin-1") for n, length in enumerate(LENGTHS)]
COMPRESSORS: dict[str, Callable[[], Compressor]] = {
    "recurrent": lambda: VirtualTokens(WIDTH, RATIO, write_layer=2, read_layer=1),
    "accumulating": lambda: SelectedKeyValues(WIDTH, RATIO, sinks=1, max_slots=6),
}


@pytest.fixture(params=COMPRESSORS)
def model(request: pytest.FixtureRequest, tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
    return R3Mem(tiny_backbone(), COMPRESSORS[request.param](), stack, Flat(SEGMENT)).eval()


@contextmanager
def passes(model: R3Mem) -> Iterator[list[tuple[int, int]]]:
    """Rows and positions of every pass, keys and values in front counted."""
    seen: list[tuple[int, int]] = []

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        mask = kwargs.get("attention_mask")
        rows, queries = args[0].shape[:2]
        seen.append((rows, queries if mask is None else mask.shape[-1]))

    handle = model.backbone.layers[0].register_forward_pre_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


def test_batches_hold_rows_of_like_length_within_their_tokens() -> None:
    assert token_batches([3, 9, 1, 4, 9, 2], 18) == [[1, 4], [3, 0, 5, 2]]
    assert token_batches([3, 9, 1], 4) == [[1], [0], [2]]
    assert token_batches([5, 5, 5], 10) == [[0, 1], [2]]
    assert token_batches([], 4) == []


@pytest.mark.parametrize("batch_tokens", [1, 40, 64, 10**6])
def test_each_text_gets_what_it_gets_alone(model: R3Mem, batch_tokens: int) -> None:
    alone = [model.retain(text, precision="float32") for text in TEXTS]
    with passes(model) as seen:
        together = model.retain(TEXTS, precision="float32", batch_tokens=batch_tokens)
    for text, one, other in zip(TEXTS, alone, together, strict=True):
        assert model.recall(other) == text
        assert torch.equal(one.lengths_T, other.lengths_T) and one.digests == other.digests
        width = one.data_TKD.shape[1]
        torch.testing.assert_close(one.data_TKD, other.data_TKD[:, :width], atol=1e-4, rtol=1e-4)
    # Anchors and write slots stand beside what is counted: of 16 tokens and 4 slots that are read, 5 at most.
    assert all(rows == 1 or rows * positions <= batch_tokens * 25 / 20 for rows, positions in seen)
    if batch_tokens in (1, 10**6):
        assert max(rows for rows, _ in seen) == (1 if batch_tokens == 1 else len(TEXTS))


def test_going_on_from_memories_keeps_who_is_who(model: R3Mem) -> None:
    before = model.retain(TEXTS)
    further = model.retain(TEXTS[::-1], before, batch_tokens=50)
    for first, second, memory in zip(TEXTS, TEXTS[::-1], further, strict=True):
        assert model.recall(memory) == first + second
    if not model.compressor.accumulates:
        last = model.retain([text + " " for text in TEXTS], records="last", batch_tokens=50)
        for text, memory in zip(TEXTS, last, strict=True):
            closed, more = divmod(len(model.tokens(text)) + 1, SEGMENT)
            # Before a record that is not full the one before it is kept.
            assert memory.lengths_T.tolist() == ([SEGMENT] * min(1, closed) + [more] * min(1, more))


def test_records_of_a_stream_come_in_the_order_of_their_texts(model: R3Mem) -> None:
    ids = [model.tokens(text) for text in TEXTS]
    found = [(row, part.n_tokens) for row, part in model.retain_stream(ids, batch_tokens=30)]
    expected = [
        (row, min(SEGMENT, len(each) - start))
        for start in range(0, max(map(len, ids)), SEGMENT)
        for row, each in enumerate(ids)
        if start < len(each)
    ]
    assert found == expected


def test_no_tokens_at_all_are_refused(model: R3Mem) -> None:
    with pytest.raises(ConfigError, match="batch_tokens 0 is not possible"):
        model.retain("ab", batch_tokens=0)
