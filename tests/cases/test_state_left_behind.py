"""Nothing of a call is left behind: not after it, and not after it broke in the middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from r3mem import Backbone, InputError, R3Mem
from r3mem.compressors import Compressor, InContextAutoencoder, MeanPool, SelectedKeyValues, VirtualTokens
from r3mem.hierarchy import Flat
from r3mem.memory import Segments
from r3mem.reversible import AutoregressiveDecoder, PositionBinding, ReversibleStack
from r3mem.search import QueryLikelihood
from tests.tiny_models import LAYERS, RATIO, SEGMENT, TEXT, VOCABULARY, WIDTH, awaken_adapters, same_memory

A, B = TEXT[:50], TEXT[20:]
COMPRESSORS: dict[str, Callable[[], Compressor]] = {
    "virtual_tokens": lambda: VirtualTokens(WIDTH, RATIO, write_layer=LAYERS, read_layer=1),
    "mean_pool": lambda: MeanPool(WIDTH, RATIO, write_layer=LAYERS, read_layer=0),
    "in_context_autoencoder": lambda: InContextAutoencoder(WIDTH, RATIO),
    "selected_key_values": lambda: SelectedKeyValues(WIDTH, RATIO, sinks=1, layer_share=0.7),
}
BREAKS = {"interrupt": KeyboardInterrupt, "memory": torch.OutOfMemoryError}
Make = Callable[[], R3Mem]


@pytest.fixture(params=COMPRESSORS)
def make(request: pytest.FixtureRequest, tiny_backbone: Callable[..., Backbone]) -> Make:
    def made() -> R3Mem:
        torch.manual_seed(3)
        backbone = tiny_backbone(lora_dropout=0.1)
        awaken_adapters(backbone)
        stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
        return R3Mem(backbone, COMPRESSORS[request.param](), stack, Flat(SEGMENT))

    return made


def fingerprint_of_process(model: R3Mem) -> dict[str, Any]:
    """All that a call could leave behind it."""
    state = torch.get_rng_state()
    with torch.no_grad(), model.backbone.adapters_off():
        logits = model.backbone(Segments.whole(torch.arange(10)[None])).logits_BNV
    torch.set_rng_state(state)
    adapters = {
        name: (part.active_adapters, part.disable_adapters, part.merged)
        for name, part in model.named_modules()
        if isinstance(part, LoraLayer)
    }
    return {
        "logits": logits.tolist(),
        "hooks": {
            name: (list(part._forward_pre_hooks), list(part._forward_hooks)) for name, part in model.named_modules()
        },
        "adapters": adapters,
        "adapters are off": model.backbone.adapter_switch.is_off,
        "training": {name: part.training for name, part in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "random": state.tolist(),
        "ratio": (model.ratio, model.decoder.ratio, model.codec.ratio),
        "grad": torch.is_grad_enabled(),
        "precision": (torch.get_float32_matmul_precision(), torch.is_autocast_enabled("cpu")),
    }


def test_documents_one_after_the_other(make: Make) -> None:
    model = make()
    first, second, again = model.retain(A), model.retain(B), model.retain(A)
    assert same_memory(first, again) and same_memory(second, make().retain(B))
    assert model.generate("so", second, max_new_tokens=4) == make().generate("so", second, max_new_tokens=4)


def calls(model: R3Mem) -> dict[str, Callable[[], Any]]:
    memory = model.retain(A)
    searcher = QueryLikelihood(model, ratio=2)
    searcher.index([A, B])
    return {
        "retain": lambda: model.retain(B, memory),
        "retain at another ratio": lambda: _at(model, 2, B),
        "generate": lambda: model.generate("so", memory, max_new_tokens=4),
        "index": lambda: QueryLikelihood(model, ratio=2).index([A, B]),
        "scores": lambda: searcher.scores("so"),
    }


def _at(model: R3Mem, ratio: int, text: str) -> None:
    with model.at_ratio(ratio):
        model.retain(text)


def test_calls_leave_nothing(make: Make) -> None:
    model = make()
    for call in (wanted := calls(model)).values():
        call()
    before = fingerprint_of_process(model)
    for name, call in wanted.items():
        call()
        assert fingerprint_of_process(model) == before, name


@pytest.mark.parametrize("kind", BREAKS)
def test_calls_that_break_leave_nothing(make: Make, kind: str) -> None:
    model = make()
    wanted = calls(model)
    # The lowest layer's, so that passes which end early get there too.
    broken: nn.Module = model.backbone.layers[0]
    for name, call in wanted.items():
        before, expected = fingerprint_of_process(model), model.retain(B)

        def breaks(*_: Any) -> None:
            raise BREAKS[kind]("on purpose")

        handle = broken.register_forward_hook(breaks)
        with pytest.raises(BREAKS[kind]):
            call()
        handle.remove()
        assert fingerprint_of_process(model) == before, name
        assert same_memory(model.retain(B), expected), name


def test_tokens_of_another_tokenizer_leave_nothing(make: Make) -> None:
    model = make()
    memory = model.retain(A)
    before = fingerprint_of_process(model)
    for ids in ([1, 2, VOCABULARY], [1, -2, 3]):
        with pytest.raises(InputError):
            model.retain(ids)
        with pytest.raises(InputError, match="outside the vocabulary"):
            model.backbone.generate([ids], model.compressor.read(model.state(memory)), max_new_tokens=2)
        assert fingerprint_of_process(model) == before


def test_a_stream_that_is_left_in_the_middle_leaves_nothing(make: Make) -> None:
    model = make()
    before, expected = fingerprint_of_process(model), model.retain(B)
    stream = model.retain_stream([model.tokens(TEXT)])
    next(stream)
    assert fingerprint_of_process(model) == before
    stream.close()
    del stream
    assert fingerprint_of_process(model) == before and same_memory(model.retain(B), expected)


def test_reconstruction_that_breaks_leaves_nothing(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone()
    awaken_adapters(backbone)
    model = R3Mem(backbone, InContextAutoencoder(WIDTH, RATIO), AutoregressiveDecoder(RATIO), Flat(SEGMENT))
    memory = model.retain(A)
    before, calls_made = fingerprint_of_process(model), 0

    def breaks(*_: Any) -> None:
        nonlocal calls_made
        calls_made += 1
        if calls_made == 7:
            raise KeyboardInterrupt

    handle = model.backbone.layers[1].register_forward_hook(breaks)
    with pytest.raises(KeyboardInterrupt):
        model.recall(memory)
    handle.remove()
    assert fingerprint_of_process(model) == before and model.recall(memory) == A
