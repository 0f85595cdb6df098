"""Nearest tokens: the same answer in every way of searching, ties to the lowest id."""

from __future__ import annotations

import pytest
import torch

from r3mem.errors import ConfigError, InputError
from r3mem.recall import readout
from r3mem.recall.readout import Method, NearestToken

WAYS: list[Method] = ["tree", "product", "differences"]


def brute(table_VC: torch.Tensor, codes_MC: torch.Tensor) -> torch.Tensor:
    return (codes_MC.double()[:, None] - table_VC.double()).square().sum(-1).sqrt()


@pytest.fixture(scope="module")
def table_VC() -> torch.Tensor:
    return torch.randn(700, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def codes_MC(table_VC: torch.Tensor) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    return table_VC[torch.randint(700, (90,), generator=g)] + 0.5 * torch.randn(90, 6, generator=g)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("k", [1, 5, 700])
def test_candidates_are_those_of_a_full_sort(
    way: Method, k: int, table_VC: torch.Tensor, codes_MC: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readout, "SCAN_ELEMENTS", 700 * 40)
    expected, order = brute(table_VC, codes_MC).sort(dim=1)
    ids_Mk, distances_Mk = NearestToken(table_VC, method=way).candidates(codes_MC, k)
    assert torch.equal(ids_Mk, order[:, :k])
    assert distances_Mk.dtype == torch.float32
    torch.testing.assert_close(distances_Mk.double(), expected[:, :k], rtol=1e-6, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_equal_distances_go_to_the_lowest_id(way: Method) -> None:
    table = torch.tensor([[0.0, 3.0], [1.0, 0.0], [0.0, -1.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    token = NearestToken(table, method=way)
    origin = torch.zeros(1, 2)
    assert token.nearest(origin)[0].tolist() == [1]
    for k in (1, 2, 3, 4):
        assert token.candidates(origin, k)[0].tolist() == [[1, 2, 3, 4][:k]]
    assert token.candidates(origin, 9)[0].tolist() == [[1, 2, 3, 4, 5, 0]]
    assert token.nearest(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))[0].tolist() == [1, 5]


@pytest.mark.parametrize("way", WAYS)
def test_many_equal_rows_still_give_the_lowest(way: Method) -> None:
    table = torch.cat([torch.full((300, 3), 5.0), torch.ones(40, 3)])
    ids_M3, _ = NearestToken(table, method=way).candidates(torch.tensor([[0.0, 1.0, 1.5]]), 3)
    assert ids_M3.tolist() == [[300, 301, 302]]


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_differ_by_less_than_cancellation_are_told_apart(way: Method) -> None:
    offsets = 0.1 * torch.randn(300, 3, generator=torch.Generator().manual_seed(2))
    table, codes = 1000 + offsets[:200], 1000 + offsets[200:]
    ids_M, distance_M = NearestToken(table, method=way).nearest(codes)
    expected = brute(table, codes).min(1)
    assert torch.equal(ids_M, expected.indices)
    torch.testing.assert_close(distance_M.double(), expected.values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("k", [1, 3])
def test_rows_that_differ_by_less_than_float32_rounding_are_told_apart(way: Method, k: int) -> None:
    table = torch.nn.functional.normalize(torch.randn(500, 40, generator=torch.Generator().manual_seed(4)))
    codes = 1e-8 * torch.randn(20, 40, generator=torch.Generator().manual_seed(5))
    expected = brute(table, codes).sort(dim=1).indices[:, :k]
    assert torch.equal(NearestToken(table, method=way).candidates(codes, k)[0], expected)


@pytest.mark.parametrize("way", WAYS)
def test_ambiguous_means_a_second_row_within_the_margin(
    way: Method, table_VC: torch.Tensor, codes_MC: torch.Tensor
) -> None:
    token = NearestToken(table_VC, tolerance=0.2, method=way)
    distance_M = token.nearest(codes_MC)[1]
    gap_M = brute(table_VC, codes_MC).sort(dim=1).values.diff(dim=1)[:, 0]
    ambiguous_M = token.ambiguous(codes_MC, distance_M)
    assert torch.equal(ambiguous_M, gap_M <= 0.2)
    assert 0 < ambiguous_M.sum() < len(codes_MC)
    surer = NearestToken(table_VC, tolerance=0.05, method=way)
    assert torch.equal(surer.ambiguous(codes_MC, distance_M), gap_M <= 0.05)


@pytest.mark.parametrize("way", WAYS)
def test_exact_ties_are_ambiguous_and_a_lone_row_never_is(way: Method) -> None:
    token = NearestToken(torch.tensor([[0.0], [0.1], [0.1]]), method=way)
    codes = torch.tensor([[0.1], [0.0], [0.3]])
    assert token.ambiguous(codes, token.nearest(codes)[1]).tolist() == [True, False, True]
    lone = NearestToken(torch.tensor([[0.1]]), tolerance=9.0, method=way)
    assert lone.ambiguous(codes, lone.nearest(codes)[1]).tolist() == [False, False, False]


@pytest.mark.parametrize("way", WAYS)
def test_no_codes(way: Method, table_VC: torch.Tensor) -> None:
    token = NearestToken(table_VC, method=way)
    ids_M, distance_M = token.nearest(torch.zeros(0, 6))
    assert ids_M.shape == distance_M.shape == (0,)
    assert ids_M.dtype == torch.long
    assert token.candidates(torch.zeros(0, 6), 3)[0].shape == (0, 3)
    assert token.ambiguous(torch.zeros(0, 6), distance_M).shape == (0,)


def test_a_batch_reads_as_its_single_codes(table_VC: torch.Tensor, codes_MC: torch.Tensor) -> None:
    token = NearestToken(table_VC)
    together = token.nearest(codes_MC)
    alone = [token.nearest(code[None]) for code in codes_MC]
    assert torch.equal(together[0], torch.cat([ids for ids, _ in alone]))
    assert torch.equal(together[1], torch.cat([distance for _, distance in alone]))


@pytest.mark.parametrize(("width", "way"), [(readout.WIDEST_TREE, "tree"), (readout.WIDEST_TREE + 1, "product")])
def test_auto_takes_the_tree_up_to_its_widest(width: int, way: str) -> None:
    token = NearestToken(torch.randn(30, width))
    token.nearest(torch.zeros(1, width))
    assert (token._tree is not None) == (way == "tree")


def test_the_table_is_neither_saved_nor_cast_nor_shared(table_VC: torch.Tensor) -> None:
    source = table_VC.clone()
    token = NearestToken(source).to(torch.bfloat16)
    source.zero_()
    assert token.state_dict() == {}
    assert torch.equal(token.table_VC, table_VC)


def test_bfloat16_codes_are_read(table_VC: torch.Tensor) -> None:
    assert NearestToken(table_VC).nearest(table_VC[:50].bfloat16())[0].tolist() == list(range(50))


@pytest.mark.parametrize("table", [torch.zeros(3), torch.zeros(0, 2), torch.tensor([[float("nan")]])])
def test_bad_tables_are_refused(table: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="table"):
        NearestToken(table)


def test_bad_settings_and_codes_are_refused(table_VC: torch.Tensor) -> None:
    token = NearestToken(table_VC)
    for tolerance in (-1, float("nan")):
        with pytest.raises(ConfigError, match="tolerance"):
            NearestToken(table_VC, tolerance=tolerance)
    with pytest.raises(ConfigError, match="method"):
        NearestToken(table_VC, method="fast")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="k must"):
        token.candidates(torch.zeros(1, 6), 0)
    with pytest.raises(InputError, match="fit the table"):
        token.nearest(torch.zeros(1, 5))
    with pytest.raises(InputError, match="NaN"):
        token.nearest(torch.full((1, 6), float("inf")))
    with pytest.raises(InputError, match="one distance"):
        token.ambiguous(torch.zeros(2, 6), torch.zeros(1))
