"""Training steps over packed rows: the terms and gradients of padded ones."""

from __future__ import annotations

import pytest
import torch

from r3mem.backbone.packing import Packing
from tests.lightning_modules.batches import TERMS, Make, batch, gradients, terms_of

# Rows whose document ends in the first segment, that begin with a few tokens, and one without any.
LENGTHS = [[8, 8, 2], [3, 0, 0], [8, 1, 0], [0, 0, 0], [5, 0, 0]]


@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("pack", [11, 64])
def test_every_term_is_the_same(module: Make, pack: int, replay: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    packings, of = [], Packing.of
    monkeypatch.setattr(Packing, "of", lambda *given: packings.append(of(*given)) or packings[-1])
    found = []
    for longest in (None, pack):
        torch.manual_seed(2)
        made = module(terms=dict.fromkeys(TERMS, 1.0), bptt_segments=3, replay=replay)
        made.model.backbone.pack = longest
        values = terms_of(made, batch(rows=5, segments=3, lengths_BT=LENGTHS))
        found.append((values, gradients(made, torch.stack(list(values.values())).sum())))
    (padded, expected), (packed, got) = found
    assert sum(packing is not None for packing in packings) >= 4
    assert set(padded) == set(TERMS)
    for term, value in padded.items():
        torch.testing.assert_close(packed[term], value, rtol=1e-4, atol=1e-5, msg=term)
    assert sum(g.abs().max() > 0 for g in expected.values()) > 5
    for name, gradient in expected.items():
        scale = gradient.abs().max().clamp(min=1e-6)
        torch.testing.assert_close(got[name] / scale, gradient / scale, rtol=0, atol=5e-4, msg=name)
