"""Attention to a memory that is too long for one pass: of several passes, as if all had been read in one.

Each pass reads what all share (sinks and the text itself) and some of the slots. Of a query's attention, what goes to a
slot divided by what goes to the shared keys does not depend on which other slots stood beside it. So with the odds
``o_g`` of the slots of pass g against the shared keys, attention in one pass over everything is::

    attention in pass g  *  (1 + o_g) / (1 + sum of all o)

That is exact where queries and shared keys are the same in each pass: in the first layer, and above it as far as what
the queries have read does not turn them elsewhere.

Shape legend: B batch, M slots of a pass, N text tokens, S keys, C queries of a chunk, L layers, H heads of keys and
values, G heads of queries for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from r3mem.backbone.attention import LayerAttention, Observed


def without_values(observed: Observed) -> Observed:
    """The same pass without its values, which say nothing of attention and take half of its room."""
    none = observed.layers[0].values_BHSE.new_empty(0)
    return replace(observed, layers=[replace(layer, values_BHSE=none) for layer in observed.layers])


@torch.no_grad()
def merged(passes: Sequence[Observed], apart: Sequence[Tensor], n_layers: int) -> list[Tensor]:
    """Mean attention of the text to each pass's memory, as if one pass had read all of them.

    Args:
        passes: At least one, of the same text.
        apart: ``bool BM`` of each: the slots that stand in this pass alone; the others stand in all.
        n_layers: Layers that are looked at, from the lowest.

    Returns:
        ``BLHM`` of each pass, float32.
    """
    odds = [_odds(observed, apart_BM, n_layers) for observed, apart_BM in zip(passes, apart, strict=True)]
    whole_BLHGN = 1 + torch.stack(odds).sum(0)
    return [_received(observed, (1 + o) / whole_BLHGN, n_layers) for observed, o in zip(passes, odds, strict=True)]


def _odds(observed: Observed, apart_BM: Tensor, n_layers: int) -> Tensor:
    """Attention to the slots apart divided by that to all else: ``BLHGN``."""
    n_batch, _, heads, n_keys = observed.shape
    groups = observed.layers[0].queries_BANE.shape[1] // heads
    odds_BLHGN = torch.zeros(n_batch, n_layers, heads, groups, observed.n_text, device=apart_BM.device)
    apart_BS = torch.nn.functional.pad(apart_BM, (0, n_keys - apart_BM.shape[1]))
    for first, end, number, layer in _chunks(observed, n_layers):
        attention_BHGCS = observed.softmax(layer, observed.seen_BS(number), first, end).float()
        some_BS = apart_BS[:, None, None, None, : attention_BHGCS.shape[-1]]
        shared_BHGC = attention_BHGCS.masked_fill(some_BS, 0.0).sum(-1)
        apart_BHGC = attention_BHGCS.masked_fill(~some_BS, 0.0).sum(-1)
        odds_BLHGN[:, number, :, :, first:end] = apart_BHGC / shared_BHGC.clamp(min=1e-12)
    return odds_BLHGN


def _received(observed: Observed, weights_BLHGN: Tensor, n_layers: int) -> Tensor:
    """Weighted mean over the text's queries and the heads of a group of the attention to the memory: ``BLHM``."""
    n_batch, heads = observed.shape[0], observed.shape[2]
    sums_BLHM = torch.zeros(n_batch, n_layers, heads, observed.n_memory, device=weights_BLHGN.device)
    weights_BLHGN = weights_BLHGN * observed.text.mask_BN[:, None, None, None]
    for first, end, number, layer in _chunks(observed, n_layers):
        attention_BHGCS = observed.softmax(layer, observed.seen_BS(number), first, end).float()
        weights_BHGC = weights_BLHGN[:, number, :, :, first:end]
        memory_BHGCM = attention_BHGCS[..., : observed.n_memory]
        sums_BLHM[:, number] += torch.einsum("bhgcm,bhgc->bhm", memory_BHGCM, weights_BHGC)
    count_B = observed.text.lengths_B.clamp(min=1) * weights_BLHGN.shape[3]
    return sums_BLHM / count_B[:, None, None, None]


def _chunks(observed: Observed, n_layers: int) -> list[tuple[int, int, int, LayerAttention]]:
    """Queries and layer of each part of a pass that is looked at at a time."""
    chunks = observed.chunks(observed.text.mask_BN.any(0))
    return [(a, b, number, layer) for a, b in chunks for number, layer in enumerate(observed.layers[:n_layers])]
