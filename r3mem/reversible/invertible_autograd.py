"""Back-propagation through additive steps that recomputes every input from the outputs.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from r3mem.errors import ConfigError
from r3mem.reversible.base import Coupling
from r3mem.reversible.full_precision import full_precision
from r3mem.reversible.random_state import RandomState, kept_random_state

MEMORY: Literal[0] = 0
TEXT: Literal[1] = 1

Streams = tuple[Tensor, Tensor]  # (memory_BKD, text_BND), indexed by MEMORY and TEXT


@dataclass(frozen=True)
class HalfCoupling:
    """Half a coupling: ``streams[target] += sign * change(streams[1 - target])``.

    Both directions of a stack are lists of such steps; undoing a step is the same step with the other sign.

    Attributes:
        coupling: Whose F (target memory) or G (target text) this is.
        target: The stream that changes.
        sign: +1 or -1.
        lengths_B: Tokens in each row.
        n_tokens: N of the text stream.
        noise_seed: Seeds the generators right before the change is computed; None leaves them alone.
    """

    coupling: Coupling
    target: Literal[0, 1]
    sign: Literal[1, -1]
    lengths_B: Tensor
    n_tokens: int
    noise_seed: int | None = None

    def change(self, source: Tensor) -> Tensor:
        """F of the text or G of the memory."""
        if self.target == MEMORY:
            return self.coupling.to_memory(source, self.lengths_B)
        return self.coupling.to_text(source, self.lengths_B, self.n_tokens)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that this step may depend on and that are trained, by their names in the coupling."""
        return {name: parameter for name, parameter in self.coupling.named_parameters() if parameter.requires_grad}


def run_steps(steps: Sequence[HalfCoupling], streams: Streams, states: list[RandomState] | None = None) -> Streams:
    """Apply the steps in order; under plain autograd, this is all there is.

    Args:
        steps: What to apply.
        streams: ``(memory_BKD, text_BND)``.
        states: Filled with the generators' state before each step, when given.

    Returns:
        The streams afterwards.
    """
    current = list(streams)
    device = streams[MEMORY].device
    for step in steps:
        if step.noise_seed is not None:
            RandomState.seeded(step.noise_seed, device).restore()
        if states is not None:
            states.append(RandomState.current(device, previous=states[-1] if states else None))
        current[step.target] = torch.add(current[step.target], step.change(current[1 - step.target]), alpha=step.sign)
    return current[MEMORY], current[TEXT]


def run_steps_invertibly(steps: Sequence[HalfCoupling], streams: Streams) -> Streams:
    """Like `run_steps`, but saves only the outputs for the backward pass, however many steps there are.

    Raises:
        ConfigError: A parameter is sharded away, so that its gradient could not be returned in its shape.
    """
    # Parameters go through the Function as inputs: only so does autograd know of them when no stream requires a
    # gradient, and only so do their gradients reach the hooks that DDP and ZeRO hang on them.
    parameters = list(dict.fromkeys(parameter for step in steps for parameter in step.parameters.values()))
    if any(parameter.numel() == 0 for parameter in parameters):
        raise ConfigError(
            "a parameter of the reversible stack is sharded away (ZeRO stage 3 or FSDP): set invertible_backward to "
            "false, or use ZeRO stage 2 or DDP"
        )
    outputs: Streams = _InvertibleSteps.apply(tuple(steps), parameters, *streams, *parameters)  # type: ignore[no-untyped-call]
    return outputs


def _marks(steps: Sequence[HalfCoupling]) -> list[tuple[int, ...]]:
    """What has to be the same when the steps are computed again: values of parameters, training or not."""
    return [
        (
            *(parameter._version for parameter in step.coupling.parameters()),
            *(int(module.training) for module in step.coupling.modules()),
        )
        for step in steps
    ]


class _InvertibleSteps(torch.autograd.Function):
    """``(steps, parameters, memory_BKD, text_BND, *parameters) -> (memory_BKD, text_BND)``.

    All that the backward pass needs lies on ``ctx``, nothing on a module, because the same stack runs once per segment
    before the first backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        steps: tuple[HalfCoupling, ...],
        parameters: list[nn.Parameter],
        memory_BKD: Tensor,
        text_BND: Tensor,
        *_: Tensor,
    ) -> Streams:
        states: list[RandomState] = []
        memory_BKD, text_BND = run_steps(steps, (memory_BKD, text_BND), states)
        ctx.steps, ctx.parameters, ctx.states, ctx.marks = steps, parameters, states, _marks(steps)
        # A missing gradient has to stay missing: zeros in its place would give parameters that did not take part a
        # gradient, and with it weight decay.
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(memory_BKD, text_BND)
        return memory_BKD, text_BND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_grads: Tensor | None) -> tuple[Any, ...]:
        if ctx.marks != _marks(ctx.steps):
            raise RuntimeError(
                "a coupling was changed (its parameters, or train() against eval()) between the forward pass and "
                "backward(), so the forward pass cannot be repeated: call backward() first"
            )
        streams: list[Tensor] = [stream.detach() for stream in ctx.saved_tensors]
        grads = list(output_grads)
        parameter_grads: dict[nn.Parameter, Tensor] = {}
        device = streams[MEMORY].device
        with kept_random_state(device), full_precision(device):
            for step, state in zip(reversed(ctx.steps), reversed(ctx.states), strict=True):
                state.restore()
                change = _pull_back(step, streams[1 - step.target], grads, parameter_grads)
                streams[step.target] = torch.sub(streams[step.target], change, alpha=step.sign)
        return None, None, *grads, *(parameter_grads.get(parameter) for parameter in ctx.parameters)


def _pull_back(
    step: HalfCoupling, source: Tensor, grads: list[Tensor | None], parameter_grads: dict[nn.Parameter, Tensor]
) -> Tensor:
    """Compute a step's change again and add its gradients to what is there already.

    Args:
        step: The step.
        source: The stream it reads.
        grads: Gradients of both streams after the step; becomes those before it.
        parameter_grads: Gradients of the parameters, added to.

    Returns:
        The change, without a graph.
    """
    target_grad = grads[step.target]
    if target_grad is None:
        with torch.no_grad():
            return step.change(source)
    source = source.detach().requires_grad_()
    parameters = step.parameters
    stand_ins = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
    with torch.enable_grad():
        change = _change_with(step, stand_ins, source)
    if not change.requires_grad:
        return change
    # autograd.grad, not autograd.backward: the latter would write into .grad behind the back of DDP.
    source_grad, *found = torch.autograd.grad(
        change, [source, *stand_ins.values()], step.sign * target_grad, allow_unused=True
    )
    if source_grad is not None:
        other = grads[1 - step.target]
        grads[1 - step.target] = source_grad if other is None else other + source_grad
    for parameter, grad in zip(parameters.values(), found, strict=True):
        if grad is not None:
            parameter_grads[parameter] = parameter_grads[parameter] + grad if parameter in parameter_grads else grad
    return change.detach()


def _change_with(step: HalfCoupling, stand_ins: dict[str, Tensor], source: Tensor) -> Tensor:
    """The step's change with other tensors in place of its parameters.

    A gradient taken with respect to a parameter itself would fire the hooks on it, once a step and with a part of the
    gradient only; they have to fire once, on what the Function returns.
    """
    named = {f"coupling.{name}": tensor for name, tensor in stand_ins.items()}
    change: Tensor = torch.func.functional_call(_Replay(step), named, (source,))
    return change


class _Replay(nn.Module):
    """A step as a module, which is what `torch.func.functional_call` can give other parameters."""

    def __init__(self, step: HalfCoupling) -> None:
        super().__init__()
        self.step = step
        self.coupling = step.coupling

    def forward(self, source: Tensor) -> Tensor:
        return self.step.change(source)
