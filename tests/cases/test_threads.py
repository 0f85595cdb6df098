"""One model, eight threads: every call gives what it gives alone, and the model is afterwards what it was."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from r3mem import Backbone, Memory, R3Mem
from r3mem.backbone.evaluation_mode import evaluating
from r3mem.compressors import Compressor, InContextAutoencoder, MeanPool, SelectedKeyValues, VirtualTokens
from r3mem.hierarchy import Flat, Level, MultiLevel
from r3mem.hierarchy.segmenters import BlankLines, FixedWindows
from r3mem.memory import Segments
from r3mem.reversible import PositionBinding, ReversibleStack
from r3mem.reversible.full_precision import full_precision
from r3mem.search import QueryLikelihood, TextLikelihood
from tests.tiny_models import RATIO, SEGMENT, TEXT, WIDTH, awaken_adapters, same_memory, tiny_r3mem

THREADS, ROUNDS = 8, 2
TEXTS = [TEXT[n : n + 40] + TEXT[: 2 * n] for n in range(THREADS)]
COMPRESSORS: dict[str, Callable[[], Compressor]] = {
    "virtual_tokens": lambda: VirtualTokens(WIDTH, RATIO, write_layer=2, read_layer=1),
    "mean_pool": lambda: MeanPool(WIDTH, RATIO, write_layer=1, read_layer=0),
    "in_context_autoencoder": lambda: InContextAutoencoder(WIDTH, RATIO),
    "selected_key_values": lambda: SelectedKeyValues(WIDTH, RATIO, max_slots=8, sinks=1, layer_share=0.7),
}


@pytest.fixture(autouse=True)
def _threads_that_take_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=COMPRESSORS)
def model(request: pytest.FixtureRequest, tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    backbone = tiny_backbone(lora_dropout=0.2)
    awaken_adapters(backbone)
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
    return R3Mem(backbone, COMPRESSORS[request.param](), stack, Flat(SEGMENT))


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    """What every thread found; all begin at the same moment."""
    start = threading.Barrier(THREADS)

    def run(number: int) -> Any:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def modes(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


def hooks(model: nn.Module) -> int:
    return sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in model.modules())


def test_every_thread_gets_what_it_gets_alone(model: R3Mem) -> None:
    model.train()
    model.backbone.base.eval()
    before = modes(model)
    trained = [p.requires_grad for p in model.parameters()]

    def work(number: int) -> list[Memory | str]:
        found: list[Memory | str] = []
        for turn in range(ROUNDS):
            text = TEXTS[(number + turn) % THREADS]
            if (number + turn) % 3 == 1:
                with model.at_ratio(2 * RATIO):
                    memory = model.retain(text)
                    found += [memory, model.recall(memory)]
            else:
                memory = model.retain(text)
                found += [memory, model.recall(memory), model.generate(text[:9], memory, max_new_tokens=3)]
        return found

    alone = [work(number) for number in range(THREADS)]
    for expected, got in zip(alone, in_threads(work), strict=True):
        for one, other in zip(expected, got, strict=True):
            assert same_memory(one, other) if isinstance(one, Memory) else one == other
    assert modes(model) == before and hooks(model) == 0
    assert [p.requires_grad for p in model.parameters()] == trained and model.ratio == RATIO


def test_searches_beside_each_other(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone(pack=64)
    awaken_adapters(backbone)
    model = tiny_r3mem(backbone)
    memories, texts = QueryLikelihood(model, ratio=2), TextLikelihood(backbone)
    for searcher in (memories, texts):
        searcher.index(TEXTS)

    def work(number: int) -> list[list[float]]:
        return [searcher.scores(TEXTS[number][:20]) for _ in range(ROUNDS) for searcher in (memories, texts)]

    assert in_threads(work) == [work(number) for number in range(THREADS)]
    assert all(modes(model.compressor)) and model.ratio == RATIO


def test_trees_beside_texts(tiny_backbone: Callable[..., Backbone]) -> None:
    levels = [Level("whole", FixedWindows(), 64, ratio=4), Level("paragraph", BlankLines(), SEGMENT, ratio=2)]
    model = R3Mem(
        tiny_backbone(), MeanPool(WIDTH, 2, 1, 1), ReversibleStack([PositionBinding(WIDTH, 2, 0.5)]), MultiLevel(levels)
    )

    def work(number: int) -> list[Any]:
        if number % 2:
            tree = model.retain_tree(TEXTS[number])
            return [*tree.levels, model.recall(tree)]
        memory = model.retain(TEXTS[number])
        return [memory, model.recall(memory)]

    for expected, got in zip([work(n) for n in range(THREADS)], in_threads(work), strict=True):
        assert expected[-1] == got[-1] in TEXTS
        assert all(same_memory(one, other) for one, other in zip(expected[:-1], got[:-1], strict=True))


def test_a_ratio_is_that_of_the_thread_that_asks(tiny_backbone: Callable[..., Backbone]) -> None:
    model = tiny_r3mem(tiny_backbone())
    with model.at_ratio(8):
        assert model.ratio == model.compressor.ratio == model.decoder.ratio == model.codec.ratio == 8
        with ThreadPoolExecutor(1) as other:
            assert other.submit(lambda: (model.ratio, model.decoder.ratio, model.codec.ratio)).result() == (4, 4, 4)
            memory = other.submit(model.retain, TEXT).result()
            other.submit(model.set_ratio, 2).result()
            assert other.submit(lambda: (model.ratio, model.decoder.ratio, model.codec.ratio)).result() == (2, 2, 2)
        assert model.ratio == model.decoder.ratio == model.codec.ratio == 8
        model.set_ratio(16)
        assert model.ratio == model.compressor.ratio == model.decoder.ratio == model.codec.ratio == 16
    assert memory.ratio == 4
    assert model.ratio == model.compressor.ratio == model.decoder.ratio == model.codec.ratio == 2


def test_a_call_ends_at_the_ratio_that_it_began_with(tiny_backbone: Callable[..., Backbone]) -> None:
    model = tiny_r3mem(tiny_backbone())
    ids, expected = model.tokens(TEXT), model.retain(TEXT)
    parts = []
    for _, part in model.retain_stream([ids]):
        parts.append(part)
        model.set_ratio(8 if model.ratio == 2 else 2)
    assert same_memory(Memory.join(parts), expected)


def test_between_two_records_of_a_stream_the_model_is_the_callers(model: R3Mem) -> None:
    model.train()
    for _ in model.retain_stream([model.tokens(TEXT)]):
        assert all(modes(model)) and model.ratio == RATIO and hooks(model) == 0
        # The other thread would wait for ever if the stream kept the model.
        with ThreadPoolExecutor(1) as other:
            assert other.submit(model.retain, "ab").result(timeout=30).n_tokens == 2


@pytest.mark.parametrize("wanted", [True, False])
def test_a_mode_that_is_set_while_a_call_runs_is_kept(tiny_backbone: Callable[..., Backbone], wanted: bool) -> None:
    model = tiny_r3mem(tiny_backbone()).train(not wanted)
    inside, go_on = threading.Event(), threading.Event()

    def call() -> list[bool]:
        with evaluating(model):
            inside.set()
            go_on.wait(30)
            return modes(model)

    with ThreadPoolExecutor(1) as other:
        running = other.submit(call)
        inside.wait(30)
        model.train(wanted)
        go_on.set()
        assert not any(running.result())
    assert set(modes(model)) == {wanted}


def test_adapters_are_off_for_one_thread_alone(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, second = tiny_backbone(), tiny_backbone(seed=1)
    for each in (backbone, second):
        awaken_adapters(each)
    text = torch.arange(8)[None]

    def logits(of: Backbone) -> torch.Tensor:
        with torch.no_grad():
            return of(Segments.whole(text)).logits_BNV

    adapted, other = logits(backbone), logits(second)
    with backbone.adapters_off():
        bare = logits(backbone)
        assert not torch.equal(bare, adapted)
        torch.testing.assert_close(bare, backbone.base.lm_head(backbone.base.model(text).last_hidden_state))
        assert torch.equal(logits(second), other)
        with ThreadPoolExecutor(1) as pool:
            assert torch.equal(pool.submit(logits, backbone).result(), adapted)
    assert torch.equal(logits(backbone), adapted)


def test_full_precision_of_many_threads_ends_as_it_began() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        inside = threading.Barrier(THREADS)

        def work(number: int) -> None:
            for _ in range(50):
                with full_precision(torch.device("cpu")):
                    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
            inside.wait(30)

        settings = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
        in_threads(work)
        assert settings == (
            torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
        )  # fmt: skip
        assert "ieee" not in settings
    finally:
        torch.set_float32_matmul_precision(before)


def test_models_are_still_pickled_and_copied(model: R3Mem) -> None:
    model.eval()
    memory = model.retain(TEXT)
    with model.at_ratio(8):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for again in copies:
        assert again.ratio == RATIO and same_memory(again.retain(TEXT), memory)
        with again.backbone.adapters_off(), torch.no_grad():
            assert again.backbone.adapter_switch.is_off and not model.backbone.adapter_switch.is_off
        again.set_ratio(8)
        assert (again.ratio, model.ratio) == (8, RATIO) and again.codec.ratio == 8
        assert model.recall(memory) == TEXT
