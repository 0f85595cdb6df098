"""LoRA adapters on a frozen model, by PEFT, and their products without detours.

Shape legend: M positions of a pass, I inputs of a layer, O its outputs, R rank.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from functools import partial
from typing import Any, cast

import peft
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

#: Models whose adapters are off, by their switch's identity. A pass sees what its own thread has set.
_OFF: ContextVar[frozenset[int]] = ContextVar("r3mem_adapters_off", default=frozenset())


class AdapterSwitch:
    """Whether the adapters of one model are on in the passes of this thread; they are until it says otherwise.

    PEFT has a flag in every layer for it, which all threads read, and which changes what is trained.
    """

    @property
    def is_off(self) -> bool:
        """Whether they are off here."""
        return id(self) in _OFF.get()

    @contextmanager
    def put(self, off: bool) -> Iterator[None]:
        """Inside, they are off or on.

        Args:
            off: Which of the two.
        """
        token = _OFF.set(_OFF.get() | {id(self)} if off else _OFF.get() - {id(self)})
        try:
            yield
        finally:
            _OFF.reset(token)


class AdaptersAsNow(AbstractContextManager[None]):
    """Inside, adapters are off or on as they were when this was made.

    A pass may have them off, and its backward pass comes when they are on again, or in another thread.
    """

    def __init__(self) -> None:
        self._off = _OFF.get()
        self._tokens: list[Token[frozenset[int]]] = []

    def __enter__(self) -> None:
        self._tokens.append(_OFF.set(self._off))

    def __exit__(self, *_: object) -> None:
        _OFF.reset(self._tokens.pop())


def with_adapters(
    model: PreTrainedModel, rank: int, alpha: float, targets: str | list[str], dropout: float, switch: AdapterSwitch
) -> nn.Module:
    """The model with adapters, kept in float32 and computed in the precision of the pass.

    Args:
        model: The frozen model; its modules are replaced in place.
        rank: Rank of the adapters.
        alpha: Their scale; the update is multiplied by ``alpha / rank``.
        targets: Names of the projections that carry adapters, or ``all-linear``.
        dropout: Dropout on the adapters' input.
        switch: Puts them off and on.
    """
    config = LoraConfig(
        r=rank, lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT divides it: any number serves.
        target_modules=targets, lora_dropout=dropout,
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that it will drop; nothing a user can do.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        adapted: nn.Module = peft.get_peft_model(model, config)
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            # PEFT would lift every activation to float32; autocast lowers the adapters instead, several
            # times faster on a CPU, with the float32 adapters as master weights.
            module.cast_input_dtype_enabled = False
            cast(Any, module).forward = partial(_forward, module, switch)
    return adapted


def _forward(layer: Any, switch: AdapterSwitch, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A layer's output; PEFT's own way wherever more is asked than one adapter on a frozen layer."""
    base = layer.base_layer
    if switch.is_off:
        if layer.merged:
            layer.unmerge()
        return cast(Tensor, base(x, *args, **kwargs))
    (name, *others) = layer.active_adapters or [None]
    plain = type(base) is nn.Linear and not (args or kwargs or layer.disable_adapters or layer.merged or others)
    plain = plain and name in layer.lora_A and isinstance(layer.lora_dropout[name], nn.Identity)
    if not plain or base.weight.requires_grad:
        return cast(Tensor, type(layer).forward(layer, x, *args, **kwargs))
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else base.weight.dtype
    a_RI, b_OR = layer.lora_A[name].weight, layer.lora_B[name].weight
    return cast(Tensor, _Adapted.apply(x, base.weight, base.bias, a_RI, b_OR, layer.scaling[name], dtype))  # type: ignore[no-untyped-call]


class _Adapted(torch.autograd.Function):
    """``x W' + scale * x A' B'``, the update added by the product itself.

    PEFT scales and adds whole outputs, there and back, which takes half as long as the layer itself. No gradient is
    made for the frozen layer.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        x_MI, a_RI = x.reshape(-1, x.shape[-1]).to(dtype), a_RI.to(dtype)
        weight_OI, b_OR = weight_OI.to(dtype), (b_OR * scale).to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            y_MO = nn.functional.linear(x_MI, weight_OI, None if bias_O is None else bias_O.to(dtype))
            low_MR = x_MI @ a_RI.T
            torch.addmm(y_MO, low_MR, b_OR.T, out=y_MO)
        ctx.save_for_backward(x_MI, weight_OI, a_RI, b_OR, low_MR)
        ctx.shape, ctx.dtype, ctx.scale = x.shape, x.dtype, scale
        return y_MO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_MI, weight_OI, a_RI, b_OR, low_MR = ctx.saved_tensors
        grad_MO = grad.reshape(-1, grad.shape[-1])
        to_x = to_a = to_b = None
        with torch.autocast(grad.device.type, enabled=False):
            grad_MR = grad_MO @ b_OR
            if ctx.needs_input_grad[0]:
                grad_MI = grad_MO @ weight_OI
                to_x = torch.addmm(grad_MI, grad_MR, a_RI, out=grad_MI).view(ctx.shape).to(ctx.dtype)
            if ctx.needs_input_grad[3]:
                to_a = (grad_MR.T @ x_MI).float()
            if ctx.needs_input_grad[4]:
                to_b = (grad_MO.T @ low_MR).float() * ctx.scale
        return to_x, None, None, to_a, to_b, None, None
