"""Attention to a memory that was read in several passes, put together as of one.

Shape legend: B batch, M slots, N text tokens, S keys, L layers, H heads of keys and values, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from r3mem import Backbone, InputError, MemoryState, R3Mem, Segments
from r3mem.backbone.attention import LayerAttention, Observed, View
from r3mem.backbone.merged_attention import merged, without_values
from r3mem.compressors import SelectedKeyValues
from r3mem.hierarchy import Flat
from tests.battery.compressor import random_text
from tests.tiny_models import KEY_VALUE_HEADS, LAYERS, SEGMENT, WIDTH

L, H, G, E, N = 2, 2, 3, 8, 5


def observed(keys_LBHSE: Tensor, queries_LBANE: Tensor, valid_BM: Tensor, text: Segments) -> Observed:
    layers = [LayerAttention(q, k, k, E**-0.5) for q, k in zip(queries_LBANE, keys_LBHSE, strict=True)]
    valid_BS = torch.cat([valid_BM, text.mask_BN], 1)
    positions_BS = torch.arange(valid_BS.shape[1]).expand_as(valid_BS)
    return Observed(layers, valid_BS, positions_BS, text, read=None)  # type: ignore[arg-type]


def test_passes_of_the_same_queries_and_shared_keys_are_one_pass() -> None:
    generator, text, m = torch.Generator().manual_seed(0), random_text([N, 3]), 17
    keys = 2 * torch.randn(L, 2, H, m + N, E, generator=generator)
    queries = 2 * torch.randn(L, 2, H * G, N, E, generator=generator)
    valid_BM = torch.ones(2, m, dtype=torch.bool)
    valid_BM[1, 14:] = False
    whole = observed(keys, queries, valid_BM, text)
    (plain_BLHS,) = whole.attention([View(few=0.0)])
    passes, apart = [], []
    for first, end in ((3, 7), (7, 15), (15, 17)):
        part_S = torch.cat([torch.arange(3), torch.arange(first, end), m + torch.arange(N)])
        passes.append(observed(keys[:, :, :, part_S], queries, valid_BM[:, part_S[:-N]], text))
        apart.append(torch.arange(3 + end - first).expand(2, -1) >= 3)
    found = merged([without_values(one) for one in passes], apart, L)
    torch.testing.assert_close(torch.cat([part[..., 3:] for part in found], -1), plain_BLHS[..., 3:m])
    # The shared keys are the same in each, and as in the one pass.
    for part in found:
        torch.testing.assert_close(part[..., :3], plain_BLHS[..., :3])
    (alone,) = merged([whole], [torch.arange(m).expand(2, -1) >= 3], L)
    torch.testing.assert_close(alone, plain_BLHS[..., :m])


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone(lora_rank=0).eval()


def shorter(backbone: Backbone, positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(backbone), "max_positions", property(lambda _: positions))


@torch.no_grad()
def test_slots_that_do_not_fit_one_pass_are_chosen_from_in_several(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressor = SelectedKeyValues(WIDTH, 1, sinks=4)
    text, query = random_text([120, 90]), random_text([6, 6], seed=4)
    memory = MemoryState(compressor(backbone, text, None, logits=False).slots_BKD, text.lengths_B, 1)
    plain = compressor.choose(backbone, memory, query, 40)
    calls = counted(backbone, monkeypatch)
    shorter(backbone, 50, monkeypatch)
    # 120 slots, 40 of them beside 4 sinks and 6 tokens that look in each pass of 50 positions.
    parts = compressor.choose(backbone, memory, query, 40)
    assert calls == [40, 44, 44]
    assert parts.slots_BKD.shape == plain.slots_BKD.shape and parts.lengths_B.tolist() == [40, 40]
    width = 2 * LAYERS * KEY_VALUE_HEADS * 8
    torch.testing.assert_close(parts.slots_BKD[:, :4, :width], memory.slots_BKD[:, :4, :width])
    # Worth is of no two slots the same, so that it names them. A third of 116 and 86 slots would agree by chance: 11
    # and 15 of 36. In upper layers queries that have read other slots look elsewhere, of a random model far elsewhere.
    for row, chance in enumerate((11, 15)):
        worth = [set(memory.slots_BKD[row, 4:, width + x].tolist()) for x in range(LAYERS * KEY_VALUE_HEADS)]
        agreed = [
            len(named & {*plain.slots_BKD[row, :, width + x].tolist()} & {*parts.slots_BKD[row, :, width + x].tolist()})
            for x, named in enumerate(worth)
        ]
        assert sum(agreed) / len(agreed) > 1.2 * chance
    shorter(backbone, 10, monkeypatch)
    with pytest.raises(InputError, match="a query of 6 tokens leaves no room for slots in the 10 positions"):
        compressor.choose(backbone, memory, query, 4)


def counted(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of the memory of each pass from now on."""
    found, forward = [], type(backbone).forward

    def counting(self: Backbone, text: Segments, prefix: Any = None, *args: Any, **options: Any) -> Any:
        found.append(int(prefix.mask_BP.sum(1).max()))
        return forward(self, text, prefix, *args, **options)

    monkeypatch.setattr(type(backbone), "forward", counting)
    return found


@torch.no_grad()
def test_generation_reads_slots_of_more_records_than_fit_the_model(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = R3Mem(backbone, SelectedKeyValues(WIDTH, 2, max_slots=16), hierarchy=Flat(SEGMENT)).eval()
    memory = model.retain(list(range(10 * SEGMENT)))
    assert memory.n_slots == 80
    # 44 of them are no copies of the sinks.
    shorter(backbone, 40, monkeypatch)
    with pytest.raises(InputError, match="need"):
        model.generate("So", memory, "records", max_new_tokens=2)
    calls = counted(backbone, monkeypatch)
    assert model.generate("So", memory, "records", slots=12, max_new_tokens=2) is not None
    assert len(calls) == 3 and max(calls) <= 38
