"""The memory-saving backward pass against plain autograd: same outputs, same gradients, less memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from r3mem.errors import ConfigError
from r3mem.reversible import AttentionCoupling, Coupling, PositionBinding, ReversibleStack, TransformerCoupling
from tests.battery.coupling import awaken

N_TOKENS, WIDTH = 14, 32
LENGTHS_B = torch.tensor([14, 9, 0])


def couplings(n: int, dropout: float = 0.0) -> list[Coupling]:
    kinds: list[Callable[[], nn.Module]] = [
        lambda: PositionBinding(WIDTH, 4, share=0.5),
        lambda: AttentionCoupling(WIDTH, 4, dim=16, dropout=dropout),
        lambda: TransformerCoupling(WIDTH, 4, dim=16, heads=2, hidden=24, dropout=dropout),
        lambda: PositionBinding(WIDTH, 4, share=0.25, seed=1),
    ]
    return [awaken(kinds[i % 4](), seed=i) for i in range(n)]


def streams(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    text_BND = torch.randn(3, N_TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    memory_BKD = torch.randn(3, 4, WIDTH, generator=generator, dtype=torch.float64)
    return text_BND.to(dtype).requires_grad_(), memory_BKD.to(dtype).requires_grad_()


def run(stack: ReversibleStack, direction: str, text_BND: Tensor, memory_BKD: Tensor) -> tuple[Tensor, Tensor]:
    if direction == "retain":
        return stack.retain(text_BND, memory_BKD, LENGTHS_B)
    return stack.recall(memory_BKD, LENGTHS_B, N_TOKENS, text_BND)


def weigh(outputs: tuple[Tensor, ...]) -> Tensor:
    """A loss that gives every number of the outputs a gradient of its own."""
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(output.shape, generator=generator, dtype=torch.float64) for output in outputs]
    return sum(
        (output * weight).sum() + output.pow(3).sum() / 30 for output, weight in zip(outputs, weights, strict=True)
    )


def compare(
    chain: list[Coupling],
    compute: Callable[[ReversibleStack, Tensor, Tensor], tuple[Tensor, ...]],
    dtype: torch.dtype = torch.float64,
    tolerance: float = 1e-9,
) -> list[Tensor | None]:
    """Run both ways of back-propagation on the same modules and hold them against each other.

    Returns:
        The gradients: text, memory, then the parameters.
    """
    results: list[tuple[tuple[Tensor, ...], list[Tensor | None]]] = []
    for invertible in (True, False):
        stack = ReversibleStack(chain, invertible_backward=invertible).to(dtype).train()
        stack.zero_grad(set_to_none=True)
        text_BND, memory_BKD = streams(dtype)
        torch.manual_seed(4)
        outputs = compute(stack, text_BND, memory_BKD)
        used_invertibly = any("InvertibleSteps" in name for name in graph_nodes(outputs))
        assert used_invertibly is invertible
        weigh(outputs).backward()
        grads = [text_BND.grad, memory_BKD.grad, *(parameter.grad for parameter in stack.parameters())]
        results.append((tuple(output.detach() for output in outputs), grads))
    (saving_outputs, saving_grads), (plain_outputs, plain_grads) = results
    torch.testing.assert_close(saving_outputs, plain_outputs, atol=0, rtol=0)
    assert [grad is None for grad in saving_grads] == [grad is None for grad in plain_grads]
    for saving, plain in zip(saving_grads, plain_grads, strict=True):
        if plain is not None:
            torch.testing.assert_close(saving, plain, atol=tolerance, rtol=tolerance)
    return saving_grads


def graph_nodes(outputs: tuple[Tensor, ...]) -> set[str]:
    todo, seen = [output.grad_fn for output in outputs], set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [parent for parent, _ in node.next_functions]
    return {node.name() for node in seen}


@pytest.mark.parametrize("direction", ["retain", "recall"])
@pytest.mark.parametrize("n", range(1, 7))
def test_same_outputs_and_gradients(n: int, direction: str) -> None:
    grads = compare(couplings(n), lambda stack, text, memory: run(stack, direction, text, memory))
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads)


@pytest.mark.parametrize("direction", ["retain", "recall"])
def test_same_in_float32(direction: str) -> None:
    compare(couplings(4), lambda s, text, memory: run(s, direction, text, memory), torch.float32, tolerance=2e-3)


@pytest.mark.parametrize("direction", ["retain", "recall"])
def test_one_coupling_twice_in_the_list(direction: str) -> None:
    first, second = couplings(2)
    grads = compare([first, second, first, second], lambda s, text, memory: run(s, direction, text, memory))
    assert len(grads) == 2 + len(list(first.parameters())) + len(list(second.parameters()))


@pytest.mark.parametrize("direction", ["retain", "recall"])
def test_dropout(direction: str) -> None:
    chain = couplings(6, dropout=0.4)
    compare(chain, lambda s, text, memory: run(s, direction, text, memory))
    stack = ReversibleStack(chain).train()
    one, two = (run(stack, direction, *streams())[0] for _ in range(2))
    assert not torch.allclose(one, two)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_many_segments_before_one_backward(dropout: float) -> None:
    def segments(stack: ReversibleStack, text_BND: Tensor, memory_BKD: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        for t in range(3):
            before_BKD = stack.project_off_share(memory_BKD)
            residual_BND, memory_BKD = stack.retain(text_BND.roll(t, dims=1), before_BKD, LENGTHS_B)
            outputs += [residual_BND, *stack.recall(memory_BKD, LENGTHS_B, N_TOKENS)]
        return (*outputs, memory_BKD)

    compare(couplings(3, dropout), segments)


def test_same_noise_in_both_directions() -> None:
    def cycle(stack: ReversibleStack, text_BND: Tensor, memory_BKD: Tensor) -> tuple[Tensor, ...]:
        with stack.same_noise(seed=3):
            residual_BND, memory_BKD = stack.retain(text_BND, memory_BKD, LENGTHS_B)
            return (residual_BND, *stack.recall(memory_BKD, LENGTHS_B, N_TOKENS))

    compare(couplings(3, dropout=0.4), cycle)


@pytest.mark.parametrize("used", [0, 1])
@pytest.mark.parametrize("direction", ["retain", "recall"])
def test_one_output_unused(direction: str, used: int) -> None:
    grads = compare(couplings(3)[1:], lambda s, text, memory: (run(s, direction, text, memory)[used],))
    last_half_idle = (direction, used) in {("retain", 1), ("recall", 0)}
    assert any(grad is None for grad in grads) is last_half_idle


@pytest.mark.parametrize("direction", ["retain", "recall"])
def test_inputs_without_gradient(direction: str) -> None:
    grads = compare(couplings(3), lambda s, text, memory: run(s, direction, text.detach(), memory.detach()))
    assert grads[:2] == [None, None] and all(grad is not None for grad in grads[2:])


def test_frozen_parameters_get_none() -> None:
    chain = couplings(3)
    chain[1].requires_grad_(False)
    chain[2].attention.requires_grad_(False)
    grads = compare(chain, lambda s, text, memory: run(s, "retain", text, memory))
    assert sum(grad is None for grad in grads) == len([p for c in chain for p in c.parameters() if not p.requires_grad])


@pytest.mark.parametrize("direction", ["retain", "recall"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_under_checkpointing(direction: str, dropout: float) -> None:
    def checkpointed(stack: ReversibleStack, text_BND: Tensor, memory_BKD: Tensor) -> tuple[Tensor, ...]:
        # Scaled inside, so that the checkpoint has something else to save and to compute again.
        return tuple(
            checkpoint(
                lambda text, memory: tuple(2 * o.sin() for o in run(stack, direction, text.cos(), memory)),
                text_BND,
                memory_BKD,
                use_reentrant=False,
            )
        )

    compare(couplings(3, dropout), checkpointed)


def test_under_autocast() -> None:
    def casting(stack: ReversibleStack, text_BND: Tensor, memory_BKD: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            return run(stack, "retain", text_BND, memory_BKD)

    compare(couplings(3), casting, torch.float32, tolerance=2e-3)


def test_backward_under_autocast() -> None:
    chain, results = couplings(3), []
    for autocast in (False, True):
        stack = ReversibleStack(chain).float()
        text_BND, memory_BKD = streams(torch.float32)
        loss = weigh(run(stack, "retain", text_BND, memory_BKD))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            results.append(torch.autograd.grad(loss, [text_BND, memory_BKD, *stack.parameters()]))
    torch.testing.assert_close(results[1], results[0], atol=0, rtol=0)


def saved_bytes(n: int, invertible: bool) -> int:
    stack = ReversibleStack(couplings(n), invertible_backward=invertible)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in stack.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    text_BND, memory_BKD = streams(torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = stack.retain(text_BND, memory_BKD, LENGTHS_B)
    assert all(output.requires_grad for output in outputs)
    return sum(saved.values())


def test_saved_activations_do_not_grow_with_the_number_of_couplings() -> None:
    flat = [saved_bytes(n, invertible=True) for n in (1, 2, 4, 8, 12)]
    growing = [saved_bytes(n, invertible=False) for n in (1, 2, 4, 8, 12)]
    streams_and_mask = 4 * (3 * N_TOKENS + 3 * 4) * WIDTH + 3 * N_TOKENS
    assert set(flat) == {streams_and_mask}
    assert growing == sorted(set(growing)) and growing[-1] > 5 * growing[1] > 5 * flat[0]


@pytest.mark.parametrize("dropout, distinct", [(0.0, 1), (0.5, 4)])
def test_random_states_are_kept_only_where_numbers_are_drawn(dropout: float, distinct: int) -> None:
    text_BND, memory_BKD = streams(torch.float32)
    stack = ReversibleStack([couplings(3, dropout)[1], couplings(4)[3], couplings(3, dropout)[2]]).train()
    states = stack.retain(text_BND, memory_BKD, LENGTHS_B)[0].grad_fn.states
    # Before and after both halves of the first coupling; the second draws nothing; before and after F of the third.
    assert len(states) == 6 and len({id(state) for state in states}) == distinct


def test_generators_are_left_alone_by_backward() -> None:
    stack = ReversibleStack(couplings(3, dropout=0.4)).double().train()
    loss = weigh(run(stack, "retain", *streams()))
    torch.manual_seed(77)
    expected = torch.rand(3)
    torch.manual_seed(77)
    loss.backward()
    assert torch.equal(torch.rand(3), expected)


def test_parameter_hooks_fire_once_with_the_whole_gradient() -> None:
    """What DDP and ZeRO hang on: one event a parameter and backward pass, after which .grad is complete."""
    first, second = couplings(2)
    stack = ReversibleStack([first, second, first]).double()
    fired: dict[str, list[Tensor]] = {name: [] for name, _ in stack.named_parameters()}
    complete: dict[str, list[Tensor]] = {name: [] for name in fired}
    for name, parameter in stack.named_parameters():
        parameter.register_hook(fired[name].append)
        parameter.register_post_accumulate_grad_hook(lambda p, name=name: complete[name].append(p.grad.clone()))
    weigh(run(stack, "retain", *streams())).backward()
    for name, parameter in stack.named_parameters():
        assert len(fired[name]) == len(complete[name]) == 1
        assert torch.equal(fired[name][0], parameter.grad) and torch.equal(complete[name][0], parameter.grad)


def test_parameter_hooks_may_change_the_gradient() -> None:
    first, second = couplings(2)
    for parameter in (*first.parameters(), *second.parameters()):
        parameter.register_hook(lambda grad: grad / 2)
    compare([first, second, first], lambda s, text, memory: run(s, "retain", text, memory))


def test_autograd_grad_writes_nothing_into_parameters() -> None:
    stack = ReversibleStack(couplings(3)).double()
    text_BND, memory_BKD = streams()
    torch.autograd.grad(weigh(run(stack, "retain", text_BND, memory_BKD)), [text_BND])
    assert all(parameter.grad is None for parameter in stack.parameters()) and text_BND.grad is None


@pytest.mark.parametrize("change", ["parameters", "mode"])
def test_refuses_backward_through_a_stack_that_was_changed(change: str) -> None:
    stack = ReversibleStack(couplings(3)).double()
    loss = weigh(run(stack, "retain", *streams()))
    if change == "mode":
        stack.eval()
    else:
        with torch.no_grad():
            next(stack.parameters()).add_(1)
    with pytest.raises(RuntimeError, match=r"call backward\(\) first"):
        loss.backward()


def test_lengths_may_be_reused_after_the_forward_pass() -> None:
    chain, results = couplings(3), []
    for reuse in (False, True):
        stack, lengths_B = ReversibleStack(chain).double(), LENGTHS_B.clone()
        text_BND, memory_BKD = streams()
        loss = weigh(stack.retain(text_BND, memory_BKD, lengths_B))
        if reuse:
            lengths_B.zero_()
        results.append(torch.autograd.grad(loss, [text_BND, memory_BKD]))
    torch.testing.assert_close(results[1], results[0], atol=0, rtol=0)


def test_refuses_sharded_parameters() -> None:
    stack = ReversibleStack(couplings(2))
    next(stack.parameters()).data = torch.empty(0)
    with pytest.raises(ConfigError, match="invertible_backward"):
        run(stack, "retain", *streams())


def test_without_gradients_no_graph_is_built() -> None:
    stack = ReversibleStack(couplings(2)).double()
    with torch.no_grad():
        assert not any(output.requires_grad for output in run(stack, "retain", *streams()))
    fixed = ReversibleStack([PositionBinding(WIDTH, 4)]).double()
    assert not any(output.requires_grad for output in run(fixed, "retain", *(s.detach() for s in streams())))
