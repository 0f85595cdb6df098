"""Stored precision: error bounds of each part, whatever the other part does."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from r3mem.errors import ConfigError, InputError
from r3mem.memory.quantise import Precision, coordinates, dequantise, quantise

PRECISIONS: list[Precision] = ["float32", "float16", "int8"]
# Half a step of the loudest coordinate of a part, with room for float32 rounding around it.
BOUND = {"float32": 2e-7, "float16": 2**-11 * 1.001, "int8": 0.5 / 127 * 1.001}
D, SHARE = 12, 5


def rotation(width: int = D, seed: int = 0) -> torch.Tensor:
    gaussian = torch.randn(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(gaussian)[0]


def slots(seed: int, share_size: float = 1.0, rest_size: float = 1.0) -> torch.Tensor:
    """Coordinates of 2 x 3 slots, loud as asked."""
    drawn = torch.randn(2, 3, D, generator=torch.Generator().manual_seed(seed))
    drawn[..., :SHARE] *= share_size
    drawn[..., SHARE:] *= rest_size
    return drawn


def part_error(stored: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """Largest error over loudest coordinate, of each slot."""
    return (stored.double() - exact.double()).abs().amax(-1) / exact.double().abs().amax(-1)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(PRECISIONS), st.integers(0, 2**31), st.floats(-30, 30), st.floats(-30, 30), st.booleans())
def test_each_part_keeps_its_precision_at_any_loudness(
    precision: Precision, seed: int, share_power: float, rest_power: float, rotated: bool
) -> None:
    original = slots(seed, 10**share_power, 10**rest_power)
    turn = rotation() if rotated else None
    exact = original.double() if turn is None else original.double() @ turn
    stored = coordinates(quantise(original, precision, turn, SHARE))
    assert (part_error(stored[..., :SHARE], exact[..., :SHARE]) <= BOUND[precision]).all()
    assert (part_error(stored[..., SHARE:], exact[..., SHARE:]) <= BOUND[precision]).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(PRECISIONS), st.integers(0, 2**31))
def test_a_rest_a_million_times_louder_leaves_the_share_as_it_was(precision: Precision, seed: int) -> None:
    quiet = dequantise(quantise(slots(seed), precision, None, SHARE), None)
    loud = dequantise(quantise(slots(seed, rest_size=1e6), precision, None, SHARE), None)
    assert torch.equal(quiet[..., :SHARE], loud[..., :SHARE])
    assert loud[..., SHARE:].abs().max() > 1e5 * quiet[..., SHARE:].abs().max()


def test_one_scale_for_both_parts_would_fail_that() -> None:
    loud = slots(0, rest_size=1e6)
    stored = coordinates(quantise(loud, "int8", None, 0))
    assert (part_error(stored[..., :SHARE], loud[..., :SHARE]) == 1).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_slots_come_back_through_the_rotation(precision: Precision) -> None:
    original = slots(1)
    quantised = quantise(original, precision, rotation().float(), SHARE)
    restored = dequantise(quantised, rotation().float())
    assert restored.dtype == torch.float32
    assert (restored - original).norm() / original.norm() < {"float32": 1e-6, "float16": 4e-4, "int8": 8e-3}[precision]
    assert (dequantise(quantised, rotation(seed=1)) - original).norm() / original.norm() > 0.5


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_beyond_the_rotation_is_kept_beside_it(precision: Precision) -> None:
    narrow = slots(1)
    wide = torch.cat([narrow, 3 * slots(2)], -1)
    quantised = quantise(wide, precision, rotation(), SHARE)
    restored = dequantise(quantised, rotation())
    assert quantised.data.shape[-1] == 2 * D
    assert (restored - wide).norm() / wide.norm() < {"float32": 1e-6, "float16": 4e-4, "int8": 8e-3}[precision]
    if precision == "float32":
        assert torch.equal(restored[..., D:], wide[..., D:])
        assert torch.equal(restored[..., :D], dequantise(quantise(narrow, precision, rotation(), SHARE), rotation()))


def test_precision_orders_the_error() -> None:
    original = slots(2)
    errors = [(dequantise(quantise(original, p, None, SHARE), None) - original).norm().item() for p in PRECISIONS]
    assert errors[0] == 0 < errors[1] < errors[2]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("turn", [None, rotation()])
def test_zero_slots_and_zero_parts_stay_zero(precision: Precision, turn: torch.Tensor | None) -> None:
    original = slots(3)
    original[0, 1] = 0
    restored = dequantise(quantise(original, precision, turn, SHARE), turn)
    assert (restored[0, 1] == 0).all()
    assert (restored[0, 0] != 0).all()
    silent = slots(3, share_size=0)
    assert (coordinates(quantise(silent, precision, None, SHARE))[..., :SHARE] == 0).all()
    assert quantise(original[:, :0], precision, turn, SHARE).data.shape == (2, 0, D)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("share_dims", [0, D])
def test_a_share_of_nothing_or_everything(precision: Precision, share_dims: int) -> None:
    original = slots(4)
    stored = coordinates(quantise(original, precision, None, share_dims))
    assert (part_error(stored, original) <= BOUND[precision]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-30, 3e38])
def test_the_ends_of_float32_stay_finite(precision: Precision, size: float) -> None:
    extreme = torch.full((1, 1, D), size)
    quantised = quantise(extreme, precision, None, SHARE)
    stored = coordinates(quantised)
    assert quantised.share_scale_BK.min() >= torch.finfo(torch.float32).tiny
    assert torch.isfinite(stored).all()
    assert ((stored - extreme).abs() <= BOUND[precision] * size + 2**-126).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_batch_is_stored_as_its_single_slots(precision: Precision) -> None:
    many = torch.randn(4, 9, 64, generator=torch.Generator().manual_seed(5))
    turn = rotation(64)
    together = quantise(many, precision, turn, 16)
    for b in range(4):
        alone = quantise(many[b : b + 1], precision, turn, 16)
        assert torch.equal(together.data[b], alone.data[0])
        assert torch.equal(together.rest_scale_BK[b], alone.rest_scale_BK[0])


def test_autocast_does_not_reach_the_rotation() -> None:
    original = slots(6)
    plain = quantise(original, "float16", rotation(), SHARE)
    with torch.autocast("cpu", torch.bfloat16):
        cast = quantise(original, "float16", rotation().float(), SHARE)
        restored = dequantise(cast, rotation().float())
    assert (coordinates(plain) - coordinates(cast)).abs().max() < 2e-3
    assert (restored - original).norm() / original.norm() < 4e-4


@pytest.mark.parametrize(("precision", "expected"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_tensors_survive_safetensors_and_are_counted(precision: Precision, expected: int) -> None:
    quantised = quantise(slots(7).requires_grad_(), precision, rotation(), SHARE)
    tensors = {"data": quantised.data, "share": quantised.share_scale_BK, "rest": quantised.rest_scale_BK}
    loaded = load(io.BytesIO(save(tensors)).getvalue())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert quantised.data.dtype == getattr(torch, precision)
    assert not quantised.data.requires_grad
    assert quantised.nbytes == 6 * D * expected + 2 * 6 * 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_slots_that_are_not_finite_are_refused(precision: Precision, bad: float) -> None:
    broken = slots(8)
    broken[1, 2, 3] = bad
    with pytest.raises(InputError, match="NaN or infinity"):
        quantise(broken, precision, None, SHARE)


def test_overflow_by_rotation_is_refused() -> None:
    along = (rotation()[:, 0].sign() * 3e38).float()[None, None]
    with pytest.raises(InputError, match="too large"):
        quantise(along, "float16", rotation(), SHARE)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="float32, float16, int8"):
        quantise(slots(0), "int4", None, SHARE)  # type: ignore[arg-type]
    for share_dims in (-1, D + 1):
        with pytest.raises(ConfigError, match="exact share"):
            quantise(slots(0), "int8", None, share_dims)
    for wrong in (rotation(13), rotation()[:, :11], rotation(SHARE - 1)):
        with pytest.raises(ConfigError, match="rotation of at most 12 x 12 that holds the share"):
            quantise(slots(0), "int8", wrong, SHARE)
        with pytest.raises(ConfigError, match="rotation of at most 12 x 12 that holds the share"):
            dequantise(quantise(slots(0), "int8", rotation(), SHARE), wrong)
    with pytest.raises(InputError, match="batch, virtual tokens, width"):
        quantise(slots(0)[0], "int8", None, SHARE)
