"""The token table: standardised, every row distinct, the same each time it is rebuilt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from r3mem.errors import ConfigError, InputError
from r3mem.recall import text_table
from r3mem.recall.text_table import NEAR, TextTable


def embedding(rows: int = 400, width: int = 24, seed: int = 0) -> torch.Tensor:
    return 0.02 * torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) + 0.5


def gaps(table_VD: torch.Tensor) -> torch.Tensor:
    distances_VV = torch.cdist(table_VD.double(), table_VD.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return distances_VV.fill_diagonal_(float("inf")).min(1).values


def standardised(raw: torch.Tensor) -> torch.Tensor:
    centred = raw.double() - raw.double().mean(0)
    return (centred / centred.square().mean().sqrt()).float()


def test_distinct_rows_are_only_standardised() -> None:
    raw = embedding()
    table = TextTable(raw)
    assert table.separated == 0
    assert table.table_VD.dtype == torch.float32
    torch.testing.assert_close(table.table_VD, standardised(raw), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(table.table_VD.mean(0), torch.zeros(24), rtol=0, atol=1e-5)
    torch.testing.assert_close(table.table_VD.square().mean(), torch.tensor(1.0), rtol=1e-5, atol=0)


def test_equal_and_nearly_equal_rows_are_separated_and_the_lowest_stays() -> None:
    raw = embedding()
    raw[[9, 300, 301, 302]] = raw[5].clone()
    raw[100] = raw[50] + 1e-5 * torch.randn(24, generator=torch.Generator().manual_seed(3))
    raw[399] = raw[0].clone()
    moved = [9, 100, 300, 301, 302, 399]
    table = TextTable(raw)
    plain = standardised(raw)
    norm = plain.norm(dim=1).median()
    kept = torch.ones(400, dtype=torch.bool)
    kept[moved] = False
    assert table.separated == len(moved)
    torch.testing.assert_close(table.table_VD[kept], plain[kept], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close((table.table_VD - plain)[moved].norm(dim=1), norm.expand(len(moved)), rtol=1e-2, atol=0)
    assert gaps(plain).min() < NEAR * norm < gaps(table.table_VD).min()
    assert gaps(table.table_VD)[moved].min() > 0.3 * norm


def test_rows_outside_the_margin_are_left_alone() -> None:
    raw = embedding()
    step = torch.zeros(24)
    step[0] = 0.02 * raw.sub(raw.mean(0)).norm(dim=1).median()
    raw[7] = raw[3] + step
    assert TextTable(raw).separated == 0
    raw[7] = raw[3] + step / 4
    assert TextTable(raw).separated == 1


def test_a_vocabulary_mostly_of_padding_is_separated() -> None:
    raw = embedding(3000)
    raw[200:] = raw[1]
    table = TextTable(raw)
    assert table.separated == 2800
    assert gaps(table.table_VD).min() > NEAR * table.table_VD.norm(dim=1).median()


def test_many_nearly_equal_rows_are_separated() -> None:
    raw = embedding(600)
    raw[100:] = raw[1] + 1e-6 * torch.randn(500, 24, generator=torch.Generator().manual_seed(5))
    table = TextTable(raw)
    assert table.separated == 500
    assert torch.equal(table.table_VD[1], TextTable(raw, seed=9).table_VD[1])


def test_vectors_that_collide_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = embedding()
    raw[[10, 11]] = raw[5].clone()
    draw = text_table._direction
    same = draw(0, 0, 0, 24)
    monkeypatch.setattr(
        text_table, "_direction", lambda seed, row, attempt, width: draw(seed, row, attempt, width) if attempt else same
    )
    table = TextTable(raw)
    assert table.separated == 2
    assert gaps(table.table_VD).min() > NEAR * table.table_VD.norm(dim=1).median()
    monkeypatch.setattr(text_table, "_direction", lambda *_: same * 0)
    with pytest.raises(ConfigError, match="2 of 400 embedding rows still coincide"):
        TextTable(raw)


def test_a_moved_row_that_lands_on_another_moves_again_not_the_other() -> None:
    table = standardised(embedding()).numpy()
    table[3] = table[7]
    for moved in (3, 7):
        moved_V = np.zeros(400, np.bool_)
        moved_V[moved] = True
        assert text_table._near_rows(table, 0.05, moved_V, np.array([moved])) == [moved]


def test_it_is_rebuilt_the_same_and_the_seed_matters_only_for_moved_rows() -> None:
    raw = embedding()
    raw[20] = raw[4].clone()
    first, second, other = TextTable(raw), TextTable(raw.clone()), TextTable(raw, seed=1)
    assert torch.equal(first.table_VD, second.table_VD)
    differs_V = (first.table_VD != other.table_VD).any(1)
    assert differs_V.nonzero().flatten().tolist() == [20]


def test_a_moved_row_does_not_depend_on_which_others_move() -> None:
    raw = embedding()
    raw[20] = raw[4].clone()
    alone = TextTable(raw).table_VD[20] - standardised(raw)[20]
    raw[15] = raw[2].clone()
    along = TextTable(raw).table_VD[20] - standardised(raw)[20]
    torch.testing.assert_close(alone / alone.norm(), along / along.norm(), rtol=0, atol=1e-5)


def test_lookup_gives_rows_and_refuses_unknown_ids() -> None:
    table = TextTable(embedding())
    ids_BN = torch.tensor([[0, 399, 7], [7, 1, 1]])
    assert torch.equal(table.lookup(ids_BN), table.table_VD[ids_BN])
    assert table.lookup(torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0, 24)
    for wrong in (400, -1):
        with pytest.raises(InputError, match="vocabulary of 400"):
            table.lookup(torch.tensor([[wrong]]))


def test_the_source_is_copied_and_casts_leave_the_table_float32() -> None:
    raw = torch.nn.Parameter(embedding())
    before = raw.detach().clone()
    table = TextTable(raw)
    values = table.table_VD.clone()
    assert torch.equal(raw, before)
    assert not table.table_VD.requires_grad
    assert table.state_dict() == {}
    assert torch.equal(torch.nn.Sequential(table).to(torch.bfloat16)[0].table_VD, values)


def test_bfloat16_embeddings_and_narrow_ones_work() -> None:
    assert TextTable(embedding().bfloat16()).table_VD.dtype == torch.float32
    narrow = TextTable(torch.tensor([[0.0], [1.0], [1.0], [3.0]]))
    assert narrow.separated == 1
    assert len(narrow.table_VD.unique()) == 4


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (torch.full((10, 4), 0.1), "all rows"),
        (torch.zeros(10, 4), "all rows"),
        (torch.zeros(1, 4), "two or more"),
        (torch.zeros(4), "two or more"),
        (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), "NaN"),
        (torch.tensor([[1.0, float("inf")], [0.0, 1.0]]), "NaN or inf"),
        (torch.empty(4, 2, device="meta"), "meta"),
    ],
)
def test_useless_embeddings_are_refused(raw: torch.Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextTable(raw)
