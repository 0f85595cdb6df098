"""Text read off a stack: the search over the vocabulary is kept as long as it is right, and no longer."""

from __future__ import annotations

import pytest
import torch

from r3mem.memory import Segments, slots_needed
from r3mem.model.saving import description_digest
from r3mem.recall.stack_codec import MOST_READOUTS, StackCodec
from r3mem.reversible import PositionBinding, ReversibleStack

WIDTH, VOCABULARY = 32, 97


def stack_codec(ratio: int = 4) -> StackCodec:
    embedding_VD = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(0))
    binding = PositionBinding(WIDTH, ratio, share=0.5)
    return StackCodec(ReversibleStack([binding]), embedding_VD)


def retained(exact: StackCodec, text: Segments) -> torch.Tensor:
    n_slots = slots_needed(text.ids_BN.shape[1], exact.stack.ratio)
    _, memory_BKD = exact.stack.retain(exact.stream(text), torch.zeros(1, n_slots, WIDTH), text.lengths_B)
    return memory_BKD


def test_each_ratio_keeps_its_search() -> None:
    exact = stack_codec(4)
    first = exact.readout
    exact.stack = exact.stack.at_ratio(2)
    second = exact.readout
    assert second.table_VC.shape == (VOCABULARY, WIDTH // 4) and first.table_VC.shape == (VOCABULARY, WIDTH // 8)
    exact.stack = exact.stack.at_ratio(4)
    assert exact.readout is first
    text = Segments.pad([list(range(20, 40))])
    assert torch.equal(exact.read(retained(exact, text), text.lengths_B, 20)[0].ids_BN, text.ids_BN)


def test_recall_searches_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Margins are of the time of retaining: what was near a second row stands among the corrections."""
    exact, text, searches = stack_codec(), Segments.pad([list(range(20, 40))]), list[str]()
    memory_BKD = retained(exact, text)
    for name in ("nearest", "ambiguous"):
        plain = getattr(exact.readout, name)
        monkeypatch.setattr(exact.readout, name, lambda *a, name=name, plain=plain: searches.append(name) or plain(*a))
    records = exact.recall_records(text, memory_BKD)
    assert searches == ["nearest", "ambiguous"]
    assert exact.recall(memory_BKD, text.lengths_B, records)[0].tolist() == text.ids_BN[0].tolist()
    assert searches == ["nearest", "ambiguous", "nearest"]


def test_not_without_end() -> None:
    exact = stack_codec(1)
    for ratio in range(1, WIDTH // 2 + 1):
        exact.stack = exact.stack.at_ratio(ratio)
        exact.readout  # noqa: B018
    assert len(exact._readouts) <= MOST_READOUTS


def test_stacks_have_the_names_of_earlier_versions() -> None:
    """Memories on disk are refused by a stack of another name."""
    table_VD = torch.randn(VOCABULARY, WIDTH)
    plain = ReversibleStack([PositionBinding(WIDTH, 4, 0.5)])
    quiet = ReversibleStack([PositionBinding(WIDTH, 4, 0.5, seed=3, token_dims=2, block=8, amplitude=0.1)])
    assert description_digest(*StackCodec(plain, table_VD).identity()) == "e1f85c152fdc8217"
    assert description_digest(*StackCodec(quiet, table_VD).identity()) == "881fdb3463fe2d93"
