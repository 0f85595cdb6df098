"""The language model's say: only where codes are ambiguous, in proportion, and for as long as something changes."""

from __future__ import annotations

import pytest
import torch

from r3mem.errors import ConfigError, InputError
from r3mem.reversible.language_prior import LanguageModelPrior
from r3mem.reversible.readout import NearestToken

V = 6
# Tokens 0 and 1 lie close together, so do 2 and 3; 4 and 5 stand alone.
TABLE = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0], [5.1, 0.0], [0.0, 9.0], [9.0, 9.0]])


class Successor:
    """A language model that is sure of one next token after each token; counts its calls."""

    def __init__(self, successor: dict[int, int], confidence: float = 20.0) -> None:
        self.table_VV = torch.zeros(V, V)
        for token, following in successor.items():
            self.table_VV[token, following] = confidence
        self.calls: list[torch.Tensor] = []

    def __call__(self, ids_BN: torch.Tensor, mask_BN: torch.Tensor) -> torch.Tensor:
        assert mask_BN.shape == ids_BN.shape
        self.calls.append(ids_BN.clone())
        return self.table_VV[ids_BN]


def codes(*values: tuple[float, float]) -> torch.Tensor:
    return torch.tensor([values])


def read(codes_BNC: torch.Tensor) -> tuple[NearestToken, torch.Tensor]:
    readout = NearestToken(TABLE, tolerance=0.05)
    ids_M, _ = readout.nearest(codes_BNC.flatten(0, 1))
    return readout, ids_M.view(codes_BNC.shape[:2])


def test_the_model_decides_between_close_tokens() -> None:
    codes_BNC = codes((0, 9), (0.04, 0), (5.04, 0))
    readout, ids_BN = read(codes_BNC)
    assert ids_BN.tolist() == [[4, 0, 2]]
    model = Successor({4: 1, 1: 3})
    mask_BN = torch.ones_like(ids_BN, dtype=torch.bool)
    refined_BN = LanguageModelPrior(sigma=0.05).refine(codes_BNC, readout, ids_BN, mask_BN, model)
    assert refined_BN.tolist() == [[4, 1, 3]]
    assert ids_BN.tolist() == [[4, 0, 2]]


def test_rounds_settle_from_the_left_and_stop_when_nothing_changes() -> None:
    codes_BNC = codes((0, 9), (0.04, 0), (5.04, 0), (0.04, 0))
    readout, ids_BN = read(codes_BNC)
    mask_BN = torch.ones_like(ids_BN, dtype=torch.bool)
    chain = {4: 1, 1: 3, 3: 1, 0: 2, 2: 0}
    model = Successor(chain)
    refined_BN = LanguageModelPrior(sigma=0.05, rounds=10).refine(codes_BNC, readout, ids_BN, mask_BN, model)
    assert refined_BN.tolist() == [[4, 1, 3, 1]]
    assert [ids.tolist()[0] for ids in model.calls] == [[4, 0, 2, 0], [4, 1, 2, 0], [4, 1, 3, 0], [4, 1, 3, 1]]
    short = Successor(chain)
    cut_BN = LanguageModelPrior(sigma=0.05, rounds=1).refine(codes_BNC, readout, ids_BN, mask_BN, short)
    assert cut_BN.tolist() == [[4, 1, 2, 0]]
    assert len(short.calls) == 1


def test_unambiguous_tokens_stay_however_sure_the_model_is() -> None:
    codes_BNC = codes((0, 9), (9, 9), (0, 0))
    readout, ids_BN = read(codes_BNC)
    model = Successor({4: 0, 5: 1})
    mask_BN = torch.ones_like(ids_BN, dtype=torch.bool)
    refined_BN = LanguageModelPrior(sigma=0.05).refine(codes_BNC, readout, ids_BN, mask_BN, model)
    assert refined_BN.tolist() == ids_BN.tolist() == [[4, 5, 0]]
    assert model.calls == []


@pytest.mark.parametrize(("confidence", "expected"), [(0.1, 0), (0.9, 1)])
@pytest.mark.parametrize("weight", [1.0, 4.0])
def test_distance_and_probability_are_weighed(confidence: float, expected: int, weight: float) -> None:
    # At x = 0.04, token 1 is worse by (0.06^2 - 0.04^2) / (2 * 0.05^2) = 0.4 nats.
    codes_BNC = codes((0, 9), (0.04, 0))
    readout, ids_BN = read(codes_BNC)
    model = Successor({4: 1}, confidence / weight)
    mask_BN = torch.ones_like(ids_BN, dtype=torch.bool)
    prior = LanguageModelPrior(sigma=0.05, weight=weight)
    assert prior.refine(codes_BNC, readout, ids_BN, mask_BN, model)[0, 1] == expected


def test_the_first_token_goes_by_distance() -> None:
    codes_BNC = codes((0.04, 0), (0, 9))
    readout, ids_BN = read(codes_BNC)
    model = Successor(dict.fromkeys(range(V), 1))
    mask_BN = torch.ones_like(ids_BN, dtype=torch.bool)
    assert LanguageModelPrior(sigma=0.05).refine(codes_BNC, readout, ids_BN, mask_BN, model).tolist() == [[0, 4]]
    assert len(model.calls) == 1


def test_padding_is_neither_read_nor_changed_and_rows_are_independent() -> None:
    one = codes((0, 9), (0.04, 0), (0.04, 0))
    two = codes((9, 9), (5.04, 0), (0.04, 0))
    two[0, 2] = float("nan")
    codes_BNC = torch.cat([one, two])
    readout = NearestToken(TABLE, tolerance=0.05)
    ids_BN = torch.tensor([[4, 0, 0], [5, 2, 0]])
    mask_BN = torch.tensor([[True, True, True], [True, True, False]])
    model = Successor({4: 1, 1: 1, 5: 3, 3: 1})
    prior = LanguageModelPrior(sigma=0.05)
    assert prior.refine(codes_BNC, readout, ids_BN, mask_BN, model).tolist() == [[4, 1, 1], [5, 3, 0]]
    alone = prior.refine(two[:, :2], readout, ids_BN[1:, :2], mask_BN[1:, :2], Successor({5: 3}))
    assert alone.tolist() == [[5, 3]]


def test_weight_zero_and_empty_batches_do_not_call_the_model() -> None:
    codes_BNC = codes((0, 9), (0.04, 0))
    readout, ids_BN = read(codes_BNC)
    model = Successor({4: 1})
    mask_BN = torch.ones_like(ids_BN, dtype=torch.bool)
    off = LanguageModelPrior(sigma=0.05, weight=0)
    assert off.refine(codes_BNC, readout, ids_BN, mask_BN, model).tolist() == [[4, 0]]
    prior = LanguageModelPrior(sigma=0.05)
    assert prior.refine(codes_BNC, readout, ids_BN, ~mask_BN, model).tolist() == [[4, 0]]
    empty = torch.zeros(1, 0, dtype=torch.long)
    assert prior.refine(torch.zeros(1, 0, 2), readout, empty, empty.bool(), model).shape == (1, 0)
    assert model.calls == []


def test_its_own_tolerance_overrides_the_readout() -> None:
    codes_BNC = codes((0, 9), (0.0, 0))
    readout, ids_BN = read(codes_BNC)
    mask_BN = torch.ones_like(ids_BN, dtype=torch.bool)
    wide = LanguageModelPrior(sigma=0.05, tolerance=0.2)
    assert wide.refine(codes_BNC, readout, ids_BN, mask_BN, Successor({4: 1})).tolist() == [[4, 1]]


def test_models_that_do_not_fit_are_refused() -> None:
    codes_BNC = codes((0, 9), (0.04, 0))
    readout, ids_BN = read(codes_BNC)
    mask_BN = torch.ones_like(ids_BN, dtype=torch.bool)
    prior = LanguageModelPrior(sigma=0.05)
    with pytest.raises(ConfigError, match="scores 2 tokens"):
        prior.refine(codes_BNC, readout, ids_BN, mask_BN, lambda ids, _: torch.zeros(*ids.shape, 2))
    with pytest.raises(InputError, match="NaN"):
        prior.refine(codes_BNC, readout, ids_BN, mask_BN, lambda ids, _: torch.full((*ids.shape, V), float("nan")))
    with pytest.raises(InputError, match="logits of shape"):
        prior.refine(codes_BNC, readout, ids_BN, mask_BN, lambda ids, _: torch.zeros(1, 1, V))
    with pytest.raises(InputError, match="agree"):
        prior.refine(codes_BNC, readout, ids_BN[:, :1], mask_BN, Successor({}))


@pytest.mark.parametrize(
    "wrong", [{"sigma": 0}, {"sigma": float("nan")}, {"weight": -1}, {"k": 1}, {"rounds": 0}, {"tolerance": -0.1}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LanguageModelPrior(**{"sigma": 0.1, **wrong})  # type: ignore[arg-type]
