"""The reader's fit against numpy, and where its states stand.

Shape legend: B batch, K virtual tokens, D width, M samples.
"""

import numpy as np
import pytest
import torch

from r3mem import InputError, MemoryState
from r3mem.compressors.parts import spread
from r3mem.compressors.parts.reader import MemoryReader
from r3mem.compressors.parts.writer import SlotWriter


def samples(n_samples: int = 200, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    slots_MD = torch.randn(n_samples, width, generator=generator) + 3
    noise_MD = torch.randn(n_samples, width, generator=generator)
    units_D = torch.tensor([1e-3, 0.1, 1.0, 10.0, 100.0, 1e3])
    return slots_MD, (slots_MD @ torch.randn(width, width, generator=generator) + noise_MD - 7) * units_D


def test_fit_is_ridge_regression() -> None:
    slots_MD, targets_MD = samples()
    reader, anchor_D = MemoryReader(6, layer=1), torch.arange(6.0)
    explained = reader.fit(slots_MD, targets_MD, anchor_D, ridge=0.1)

    low_D, high_D = np.quantile(targets_MD.double().numpy(), [0.16, 0.84], axis=0)
    unit_D = (high_D - low_D) / 2
    x_MD = slots_MD.double().numpy() - slots_MD.double().numpy().mean(0)
    y_MD = targets_MD.double().numpy() / unit_D
    centred_MD = y_MD - y_MD.mean(0)
    # Ridge as a least squares problem: rows that pull the map towards zero.
    pull_DD = np.sqrt(0.1 * np.square(x_MD).sum() / 6) * np.eye(6)
    map_DD = np.linalg.lstsq(np.vstack([x_MD, pull_DD]), np.vstack([centred_MD, np.zeros((6, 6))]), rcond=None)[0]
    read_MD = (x_MD @ map_DD + y_MD.mean(0)) * unit_D

    prefix = reader(MemoryState(slots_MD[None], torch.tensor([200]), ratio=1), torch.arange(200)[None])
    np.testing.assert_allclose(prefix.states_BPD[0, 1:].detach().numpy() / unit_D, read_MD / unit_D, atol=1e-3)
    torch.testing.assert_close(prefix.states_BPD[0, 0], anchor_D, atol=1e-4, rtol=1e-4)
    error = np.square(centred_MD - x_MD @ map_DD).sum() / np.square(centred_MD).sum()
    assert explained == pytest.approx(1 - error, abs=1e-5) and 0.3 < explained < 1


def test_fit_without_penalty_finds_an_affine_map() -> None:
    slots_MD, _ = samples()
    targets_MD = slots_MD @ torch.randn(6, 6, generator=torch.Generator().manual_seed(1)) * 50 + 9
    assert MemoryReader(6, layer=0).fit(slots_MD, targets_MD, torch.zeros(6), ridge=0.0) == pytest.approx(1, abs=1e-5)


def test_fit_refuses_slots_that_do_not_differ() -> None:
    with pytest.raises(InputError, match="more varied"):
        MemoryReader(6, 0).fit(torch.ones(9, 6), torch.randn(9, 6), torch.zeros(6))


def test_where_the_states_stand() -> None:
    memory = MemoryState(torch.zeros(3, 3, 6), torch.tensor([10, 4, 0]), ratio=4)
    prefix = MemoryReader(6, layer=2)(memory, torch.tensor([[1, 5, 9]] * 3))
    assert prefix.positions_BP.tolist() == [[0, 1, 5, 9]] * 3
    assert prefix.mask_BP.tolist() == [[True] * 4, [True, True, False, False], [False] * 4]
    assert prefix.start_B.tolist() == [10, 4, 0] and prefix.layer == 2


def test_spread_ignores_outliers_and_any_number_of_samples_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    states_MD = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)) * 3 + 2
    states_MD[:40] = 1e6
    centre_D, spread_D = spread.centre_and_spread(states_MD)
    torch.testing.assert_close(centre_D, torch.full((5,), 2.0), atol=0.3, rtol=0)
    torch.testing.assert_close(spread_D, torch.full((5,), 3.0), atol=0.3, rtol=0)
    monkeypatch.setattr(spread, "MOST_ELEMENTS", 8000)
    for whole, piecewise in zip((centre_D, spread_D), spread.centre_and_spread(states_MD), strict=True):
        assert torch.equal(whole, piecewise)
    assert (spread.centre_and_spread(torch.ones(3, 2))[1] > 0).all()


def test_writer_standardises_and_keeps_empty_slots_at_zero() -> None:
    states_MD = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1, 9, 1e4]) - 5
    writer = SlotWriter(4)
    writer.fit(states_MD)
    mask_BK = torch.ones(1, 2000, dtype=torch.bool)
    mask_BK[0, 7] = False
    written_KD = writer(states_MD[None], mask_BK)[0]
    torch.testing.assert_close(written_KD.std(0), torch.ones(4), atol=0.1, rtol=0)
    torch.testing.assert_close(written_KD.median(0).values, torch.zeros(4), atol=0.01, rtol=0)
    assert (written_KD[7] == 0).all()
