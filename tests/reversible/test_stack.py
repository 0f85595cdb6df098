"""ReversibleStack: the inverse, padding, precision, refusals. Gradients are in tests/parity."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from r3mem.errors import ConfigError, InputError
from r3mem.reversible import AttentionCoupling, Coupling, PositionBinding, ReversibleStack, TransformerCoupling
from tests.battery.coupling import awaken

LENGTHS_B = torch.tensor([14, 9, 4, 0])


def couplings(n: int, dropout: float = 0.0) -> list[Coupling]:
    kinds = [
        lambda: PositionBinding(32, 4, share=0.5),
        lambda: awaken(AttentionCoupling(32, 4, dim=16, dropout=dropout)),
        lambda: awaken(TransformerCoupling(32, 4, dim=16, heads=2, dropout=dropout)),
    ]
    return [kinds[i % 3]() for i in range(n)]


def streams(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    text_BND = torch.randn(4, 14, 32, generator=generator, dtype=torch.float64)
    slots_BKD = torch.randn(4, 4, 32, generator=generator, dtype=torch.float64)
    text_BND[torch.arange(14) >= LENGTHS_B[:, None]] = 0
    return text_BND.to(dtype), slots_BKD.to(dtype)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-12)], ids=["fp32", "fp64"])
@pytest.mark.parametrize("n", [1, 2, 3, 6, 24])
def test_inverse_is_exact_both_ways(n: int, dtype: torch.dtype, tolerance: float) -> None:
    stack = ReversibleStack(couplings(n)).to(dtype)
    text_BND, slots_BKD = streams(dtype)
    residual_BND, memory_BKD = stack.retain(text_BND, slots_BKD, LENGTHS_B)
    assert (memory_BKD - slots_BKD).abs().max() > 0.1
    text_again_BND, slots_again_BKD = stack.recall(memory_BKD, LENGTHS_B, 14, residual_BND)
    torch.testing.assert_close(text_again_BND, text_BND, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(slots_again_BKD, slots_BKD, atol=tolerance, rtol=tolerance)
    recalled = stack.recall(slots_BKD, LENGTHS_B, 14)
    residual_again_BND, memory_again_BKD = stack.retain(*recalled, LENGTHS_B)
    torch.testing.assert_close(residual_again_BND, torch.zeros_like(text_BND), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(memory_again_BKD, slots_BKD, atol=tolerance, rtol=tolerance)


def test_steps_are_the_equations() -> None:
    first, second = couplings(2)
    text_BND, slots_BKD = streams()
    memory_BKD = slots_BKD + first.to_memory(text_BND, LENGTHS_B)
    residual_BND = text_BND - first.to_text(memory_BKD, LENGTHS_B, 14)
    memory_BKD = memory_BKD + second.to_memory(residual_BND, LENGTHS_B)
    residual_BND = residual_BND - second.to_text(memory_BKD, LENGTHS_B, 14)
    retained = ReversibleStack([first, second]).retain(text_BND, slots_BKD, LENGTHS_B)
    torch.testing.assert_close(retained, (residual_BND, memory_BKD), atol=0, rtol=0)


def test_recall_without_residual_starts_from_zeros() -> None:
    stack = ReversibleStack(couplings(3))
    _, slots_BKD = streams()
    given = stack.recall(slots_BKD, LENGTHS_B, 14, torch.zeros(4, 14, 32))
    torch.testing.assert_close(stack.recall(slots_BKD, LENGTHS_B, 14), given, atol=0, rtol=0)


def test_padding_never_leaks_and_slots_beyond_are_untouched() -> None:
    stack = ReversibleStack(couplings(3))
    text_BND, slots_BKD = streams()
    expected = stack.retain(text_BND, slots_BKD, LENGTHS_B)
    beyond_BN = torch.arange(14) >= LENGTHS_B[:, None]
    beyond_BK = torch.arange(4) * 4 >= LENGTHS_B[:, None]
    text_BND[beyond_BN] = float("nan")
    residual_BND, memory_BKD = stack.retain(text_BND, slots_BKD, LENGTHS_B)
    torch.testing.assert_close((residual_BND, memory_BKD), expected, atol=0, rtol=0)
    assert (residual_BND[beyond_BN] == 0).all()
    assert torch.equal(memory_BKD[beyond_BK], slots_BKD[beyond_BK])
    text_again_BND, slots_again_BKD = stack.recall(memory_BKD, LENGTHS_B, 14, residual_BND)
    assert (text_again_BND[beyond_BN] == 0).all()
    assert torch.equal(slots_again_BKD[beyond_BK], slots_BKD[beyond_BK])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_streams_are_cast_up_to_float32(dtype: torch.dtype) -> None:
    stack = ReversibleStack(couplings(2))
    text_BND, slots_BKD = streams(dtype)
    retained = stack.retain(text_BND, slots_BKD, LENGTHS_B)
    torch.testing.assert_close(retained, stack.retain(text_BND.float(), slots_BKD.float(), LENGTHS_B), atol=0, rtol=0)
    assert {stream.dtype for stream in (*retained, *stack.recall(slots_BKD, LENGTHS_B, 14))} == {torch.float32}
    assert stack.project_off_share(slots_BKD).dtype == torch.float32


def matmul_precision() -> str:
    """What products of float32 matrices use on a GPU, by the setting this torch version really reads."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return torch.backends.cuda.matmul.fp32_precision
    return {"highest": "ieee"}.get(torch.get_float32_matmul_precision(), "tf32")


@pytest.fixture
def low_precision_matmul() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def test_autocast_does_not_reach_the_streams() -> None:
    stack = ReversibleStack(couplings(3))
    text_BND, slots_BKD = streams()
    expected = stack.retain(text_BND, slots_BKD, LENGTHS_B)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(stack.retain(text_BND, slots_BKD, LENGTHS_B), expected, atol=0, rtol=0)
        assert (text_BND @ text_BND.mT).dtype == torch.bfloat16


def test_fast_matmul_settings_are_off_inside_and_kept_outside(low_precision_matmul: None) -> None:
    seen: list[str] = []

    class Spy(PositionBinding):
        def to_memory(self, text_BND: Tensor, lengths_B: Tensor) -> Tensor:
            seen.append(matmul_precision())
            return super().to_memory(text_BND, lengths_B)

    text_BND, slots_BKD = streams()
    slots_BKD.requires_grad_()
    residual_BND, _ = ReversibleStack([Spy(32, 4)]).retain(text_BND, slots_BKD, LENGTHS_B)
    residual_BND.sum().backward()
    assert seen == ["ieee", "ieee"]  # forward, and again in the backward pass
    assert matmul_precision() == "tf32" and torch.get_float32_matmul_precision() == "medium"


def test_fast_matmul_settings_do_not_change_a_bit(low_precision_matmul: None) -> None:
    torch.manual_seed(0)
    stack = ReversibleStack([PositionBinding(256, 4), awaken(AttentionCoupling(256, 4, dim=64))])
    text_BND, slots_BKD, lengths_B = torch.randn(4, 128, 256), torch.randn(4, 32, 256), torch.full((4,), 128)
    fast = stack.retain(text_BND, slots_BKD, lengths_B)
    torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(fast, stack.retain(text_BND, slots_BKD, lengths_B), atol=0, rtol=0)


def test_dropout_is_fresh_in_every_pass_unless_asked_otherwise() -> None:
    stack = ReversibleStack(couplings(3, dropout=0.5)).train()
    text_BND, slots_BKD = streams()
    one, two = (stack.retain(text_BND, slots_BKD, LENGTHS_B)[1] for _ in range(2))
    assert not torch.allclose(one, two)
    state = torch.get_rng_state()
    with stack.same_noise(seed=5):
        residual_BND, memory_BKD = stack.retain(text_BND, slots_BKD, LENGTHS_B)
        text_again_BND, _ = stack.recall(memory_BKD, LENGTHS_B, 14, residual_BND)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(text_again_BND, text_BND, atol=1e-4, rtol=0)
    with stack.same_noise(seed=6):
        assert not torch.allclose(stack.retain(text_BND, slots_BKD, LENGTHS_B)[1], memory_BKD)
    with stack.same_noise():
        torch.testing.assert_close(
            stack.retain(text_BND, slots_BKD, LENGTHS_B), stack.retain(text_BND, slots_BKD, LENGTHS_B), atol=0, rtol=0
        )


def test_same_noise_differs_between_the_halves_and_the_couplings() -> None:
    drawn: list[float] = []

    class Drawing(PositionBinding):
        def to_memory(self, text_BND: Tensor, lengths_B: Tensor) -> Tensor:
            drawn.append(torch.rand(()).item())
            return super().to_memory(text_BND, lengths_B)

        def to_text(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> Tensor:
            drawn.append(torch.rand(()).item())
            return super().to_text(memory_BKD, lengths_B, n_tokens)

    stack = ReversibleStack([Drawing(32, 4), Drawing(32, 4)])
    with stack.same_noise(seed=1):
        _, memory_BKD = stack.retain(*streams(), LENGTHS_B)
        stack.recall(memory_BKD, LENGTHS_B, 14)
    assert len(set(drawn)) == 4 and drawn[4:] == drawn[3::-1]


def test_share_is_that_of_the_first_coupling_that_has_one() -> None:
    binding, other = PositionBinding(32, 4, share=0.5), PositionBinding(32, 4, share=0.25, seed=1)
    stack = ReversibleStack([AttentionCoupling(32, 4), binding, other])
    assert stack.share_dims == 16 and stack.rotation_DD is binding.rotation_DD
    projected_BKD = stack.project_off_share(streams()[1])
    assert (projected_BKD @ binding.rotation_DD)[..., :16].abs().max() < 1e-5
    bare = ReversibleStack([AttentionCoupling(32, 4)])
    assert bare.share_dims == 0 and bare.rotation_DD is None
    assert torch.equal(bare.project_off_share(streams()[1]), streams()[1])


def test_refuses_lists_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="at least one coupling"):
        ReversibleStack([])
    with pytest.raises(ConfigError, match=r"\[4, 8\]"):
        ReversibleStack([PositionBinding(32, 4), PositionBinding(32, 8)])


@pytest.mark.parametrize(
    "text, memory, lengths",
    [
        ((2, 14, 32), (2, 5, 32), (2,)),
        ((2, 14, 32), (2, 3, 32), (2,)),
        ((2, 14, 32), (1, 4, 32), (2,)),
        ((2, 14, 32), (2, 4, 16), (2,)),
        ((2, 14, 32), (2, 4, 32), (1,)),
        ((14, 32), (4, 32), (2,)),
        ((2, 0, 32), (2, 0, 32), (2,)),
    ],
)
def test_refuses_shapes_that_do_not_fit(
    text: tuple[int, ...], memory: tuple[int, ...], lengths: tuple[int, ...]
) -> None:
    stack = ReversibleStack(couplings(1))
    with pytest.raises(InputError):
        stack.retain(torch.zeros(text), torch.zeros(memory), torch.ones(lengths, dtype=torch.long))


def test_refuses_a_residual_of_another_length() -> None:
    with pytest.raises(InputError, match="n_tokens is 14"):
        ReversibleStack(couplings(1)).recall(streams()[1], LENGTHS_B, 14, torch.zeros(4, 13, 32))
