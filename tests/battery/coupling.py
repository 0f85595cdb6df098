"""What every coupling has to keep. A new coupling gets these tests by one subclass.

```python
class TestMyCoupling(CouplingBattery):
    build = staticmethod(partial(MyCoupling, width=32, ratio=4))
```

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from r3mem.memory import slots_needed
from r3mem.plain_data.components import build, describe
from r3mem.reversible import Coupling, ReversibleStack

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}
# One full row, one that ends inside a slot, one that ends at a slot's border, one of a single token, one empty.
LENGTHS = [14, 9, 8, 1, 0]
N_TOKENS = 14


def awaken(coupling: torch.nn.Module, seed: int = 7) -> torch.nn.Module:
    """Give every parameter a random value: output projections that start at zero would make most tests pass idly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in coupling.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(noise / max(1, parameter.shape[-1]) ** 0.5)
    return coupling


class CouplingBattery:
    """Shared tests; a subclass names the coupling.

    Attributes:
        build: Makes the coupling; called with ``dropout`` only where the coupling takes one.
        width: D that ``build`` uses.
        identity_at_start: Whether a new coupling changes nothing.
    """

    build: ClassVar[Callable[..., Coupling]]
    width: ClassVar[int] = 32
    identity_at_start: ClassVar[bool] = False

    @pytest.fixture(params=[torch.float32, torch.float64], ids=["fp32", "fp64"])
    def dtype(self, request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
        return request.param

    def new(self, dtype: torch.dtype = torch.float64, dropout: float = 0.0, awake: bool = True) -> Coupling:
        options = {"dropout": dropout} if "dropout" in inspect.signature(self.build).parameters else {}
        torch.manual_seed(0)
        coupling = self.build(**options)
        return (awaken(coupling) if awake else coupling).to(dtype)

    def streams(self, coupling: Coupling, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(3)
        lengths_B = torch.tensor(LENGTHS)
        n_slots = slots_needed(N_TOKENS, coupling.ratio)
        text_BND = torch.randn(len(LENGTHS), N_TOKENS, self.width, generator=generator, dtype=torch.float64)
        memory_BKD = torch.randn(len(LENGTHS), n_slots, self.width, generator=generator, dtype=torch.float64)
        return text_BND.to(dtype), memory_BKD.to(dtype), lengths_B

    def both(self, coupling: Coupling, text_BND: Tensor, memory_BKD: Tensor, lengths_B: Tensor) -> list[Tensor]:
        to_text = coupling.to_text(memory_BKD, lengths_B, text_BND.shape[1])
        return [coupling.to_memory(text_BND, lengths_B), to_text]

    def test_shapes(self, dtype: torch.dtype) -> None:
        coupling = self.new(dtype)
        text_BND, memory_BKD, lengths_B = self.streams(coupling, dtype)
        written_BKD, read_BND = self.both(coupling, text_BND, memory_BKD, lengths_B)
        assert written_BKD.shape == memory_BKD.shape and read_BND.shape == text_BND.shape
        assert written_BKD.dtype == read_BND.dtype == dtype
        assert written_BKD[0].abs().sum() > 0 and read_BND[0].abs().sum() > 0

    def test_described_and_built_again(self, dtype: torch.dtype) -> None:
        coupling = self.new(dtype)
        again = build(describe(coupling), Coupling).to(dtype)
        again.load_state_dict(coupling.state_dict())
        streams = self.streams(coupling, dtype)
        torch.testing.assert_close(self.both(again, *streams), self.both(coupling, *streams), atol=0, rtol=0)

    def test_start(self) -> None:
        coupling = self.new(awake=False)
        changes = self.both(coupling, *self.streams(coupling))
        assert all(bool((change == 0).all()) is self.identity_at_start for change in changes)

    def test_inverse_is_exact_with_the_residual(self, dtype: torch.dtype) -> None:
        coupling = self.new(dtype)
        stack = ReversibleStack([coupling])
        text_BND, memory_BKD, lengths_B = self.streams(coupling, dtype)
        residual_BND, kept_BKD = stack.retain(text_BND, memory_BKD, lengths_B)
        assert not torch.allclose(kept_BKD, memory_BKD) and not torch.allclose(residual_BND[0], text_BND[0])
        back_BND, slots_BKD = stack.recall(kept_BKD, lengths_B, N_TOKENS, residual_BND)
        inside_BN = torch.arange(N_TOKENS) < lengths_B[:, None]
        torch.testing.assert_close(back_BND[inside_BN], text_BND[inside_BN], atol=TOLERANCE[dtype], rtol=0)
        torch.testing.assert_close(slots_BKD, memory_BKD, atol=TOLERANCE[dtype], rtol=0)

    def test_padding_contributes_nothing_and_gets_exact_zeros(self) -> None:
        coupling = self.new()
        text_BND, memory_BKD, lengths_B = self.streams(coupling)
        expected = self.both(coupling, text_BND, memory_BKD, lengths_B)
        beyond_BN = torch.arange(N_TOKENS) >= lengths_B[:, None]
        beyond_BK = torch.arange(memory_BKD.shape[1]) * coupling.ratio >= lengths_B[:, None]
        text_BND[beyond_BN] = float("nan")
        memory_BKD[beyond_BK] = float("nan")
        written_BKD, read_BND = self.both(coupling, text_BND, memory_BKD, lengths_B)
        torch.testing.assert_close([written_BKD, read_BND], expected, atol=0, rtol=0)
        assert (written_BKD[beyond_BK] == 0).all() and (read_BND[beyond_BN] == 0).all()

    def test_padding_gets_no_gradient_and_spoils_none(self) -> None:
        coupling = self.new()
        text_BND, memory_BKD, lengths_B = self.streams(coupling)
        beyond_BN = torch.arange(N_TOKENS) >= lengths_B[:, None]
        beyond_BK = torch.arange(memory_BKD.shape[1]) * coupling.ratio >= lengths_B[:, None]
        text_BND[beyond_BN] = float("nan")
        memory_BKD[beyond_BK] = float("nan")
        text_BND.requires_grad_(), memory_BKD.requires_grad_()
        sum(change.sum() for change in self.both(coupling, text_BND, memory_BKD, lengths_B)).backward()
        assert (text_BND.grad[beyond_BN] == 0).all() and (memory_BKD.grad[beyond_BK] == 0).all()
        for grad in [text_BND.grad, memory_BKD.grad, *(p.grad for p in coupling.parameters())]:
            assert torch.isfinite(grad).all()

    def test_longer_padding_changes_nothing(self) -> None:
        coupling = self.new()
        text_BND, memory_BKD, lengths_B = self.streams(coupling)
        written_BKD, read_BND = self.both(coupling, text_BND, memory_BKD, lengths_B)
        text_BND = torch.nn.functional.pad(text_BND, (0, 0, 0, 2 * coupling.ratio), value=5.0)
        memory_BKD = torch.nn.functional.pad(memory_BKD, (0, 0, 0, 2), value=5.0)
        wider_BKD, longer_BND = self.both(coupling, text_BND, memory_BKD, lengths_B)
        torch.testing.assert_close(wider_BKD[:, :-2], written_BKD, atol=1e-12, rtol=0)
        torch.testing.assert_close(longer_BND[:, : -2 * coupling.ratio], read_BND, atol=1e-12, rtol=0)

    def test_batch_equals_singles(self) -> None:
        coupling = self.new()
        text_BND, memory_BKD, lengths_B = self.streams(coupling)
        written_BKD, read_BND = self.both(coupling, text_BND, memory_BKD, lengths_B)
        for b, length in enumerate(LENGTHS):
            n, k = max(length, 1), slots_needed(max(length, 1), coupling.ratio)
            one = self.both(coupling, text_BND[b : b + 1, :n], memory_BKD[b : b + 1, :k], lengths_B[b : b + 1])
            torch.testing.assert_close(one[0][0], written_BKD[b, :k], atol=1e-12, rtol=0)
            torch.testing.assert_close(one[1][0], read_BND[b, :n], atol=1e-12, rtol=0)

    def test_all_rows_empty(self) -> None:
        coupling = self.new()
        text_BND, memory_BKD, lengths_B = self.streams(coupling)
        changes = self.both(coupling, text_BND, memory_BKD, torch.zeros_like(lengths_B))
        assert all((change == 0).all() for change in changes)

    def test_every_real_token_and_slot_counts(self) -> None:
        coupling = self.new()
        text_BND, memory_BKD, lengths_B = self.streams(coupling)
        text_BND.requires_grad_(), memory_BKD.requires_grad_()
        sum(change.square().sum() for change in self.both(coupling, text_BND, memory_BKD, lengths_B)).backward()
        inside_BN = torch.arange(N_TOKENS) < lengths_B[:, None]
        covering_BK = torch.arange(memory_BKD.shape[1]) * coupling.ratio < lengths_B[:, None]
        assert (text_BND.grad[inside_BN].abs().sum(-1) > 0).all()
        assert (memory_BKD.grad[covering_BK].abs().sum(-1) > 0).all()

    def test_every_parameter_gets_a_gradient(self) -> None:
        coupling = self.new()
        text_BND, memory_BKD, lengths_B = self.streams(coupling)
        text_BND.requires_grad_()
        sum(change.square().sum() for change in self.both(coupling, text_BND, memory_BKD, lengths_B)).backward()
        idle = [name for name, p in coupling.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert idle == []

    def test_a_new_coupling_can_learn(self) -> None:
        coupling = self.new(awake=False)
        if not list(coupling.parameters()):
            assert not self.identity_at_start, "a coupling that does nothing and learns nothing"
            return
        sum(change.sum() for change in self.both(coupling, *self.streams(coupling))).backward()
        assert sum(p.grad.abs().sum() for p in coupling.parameters() if p.grad is not None) > 0

    @pytest.mark.parametrize("dropout", [0.0, 0.5])
    def test_used_twice_before_backward(self, dropout: float) -> None:
        coupling = self.new(dropout=dropout).train()
        results = []
        for invertible in (True, False):
            stack = ReversibleStack([coupling], invertible_backward=invertible)
            text_BND, memory_BKD, lengths_B = self.streams(coupling)
            text_BND.requires_grad_(), memory_BKD.requires_grad_()
            torch.manual_seed(11)
            first = stack.retain(text_BND, memory_BKD, lengths_B)
            second = stack.retain(text_BND.flip(0), first[1], lengths_B.flip(0))
            loss = sum(output.square().sum() for output in (*first, *second))
            wanted = [text_BND, memory_BKD, *coupling.parameters()]
            results.append([loss.detach(), *torch.autograd.grad(loss, wanted)])
        torch.testing.assert_close(results[0], results[1], atol=1e-9, rtol=1e-9)

    def test_inverse_under_dropout(self) -> None:
        coupling = self.new(dropout=0.5).train()
        stack = ReversibleStack([coupling])
        text_BND, memory_BKD, lengths_B = self.streams(coupling)
        with stack.same_noise():
            residual_BND, kept_BKD = stack.retain(text_BND, memory_BKD, lengths_B)
            back_BND, slots_BKD = stack.recall(kept_BKD, lengths_B, N_TOKENS, residual_BND)
        torch.testing.assert_close(back_BND[0], text_BND[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(slots_BKD, memory_BKD, atol=1e-12, rtol=0)

    def test_no_dropout_in_evaluation(self) -> None:
        noisy, quiet = self.new(dropout=0.5).eval(), self.new(dropout=0.0)
        streams = self.streams(noisy)
        torch.testing.assert_close(self.both(noisy, *streams), self.both(quiet, *streams), atol=0, rtol=0)

    def test_weights_in_half_precision_leave_the_streams_in_full(self) -> None:
        coupling = self.new(torch.bfloat16)
        text_BND, memory_BKD, lengths_B = self.streams(coupling, torch.float32)
        stack = ReversibleStack([coupling])
        residual_BND, kept_BKD = stack.retain(text_BND, memory_BKD, lengths_B)
        back_BND, _ = stack.recall(kept_BKD, lengths_B, N_TOKENS, residual_BND)
        assert residual_BND.dtype == kept_BKD.dtype == torch.float32
        torch.testing.assert_close(back_BND[0], text_BND[0], atol=TOLERANCE[torch.float32], rtol=0)
