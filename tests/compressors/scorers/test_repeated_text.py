"""The shared tests of scorers, for ``RepeatedText``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from r3mem import Backbone, ConfigError, InputError
from r3mem.compressors.scorers import RepeatedText, Scorer
from tests.battery.compressor import random_text
from tests.battery.scorer import Plain, ScorerBattery

CHUNK, SINKS = 5, 2


class TestRepeatedText(ScorerBattery):
    build = staticmethod(partial(RepeatedText, chunk=CHUNK, sinks=SINKS, first="Again.", others="Go on:"))

    def reference(self, scorer: Scorer, plain: Plain) -> Tensor:
        """Of all attention of each repeat, what is of the chunk, of sinks in front of it and of the repeat counts."""
        observed, n_memory = plain.observed, plain.n_memory
        scores_LHS = torch.zeros(observed.shape[1:])
        assert len(plain.others) == -(-observed.n_text // CHUNK)
        for number, layers in enumerate(plain.others):
            start = n_memory + number * CHUNK
            end = min(start + CHUNK, plain.n_keys)
            for layer, weights_HGRX in enumerate(layers):
                counts_X = torch.zeros(weights_HGRX.shape[-1])
                counts_X[: min(SINKS, start)] = counts_X[start:end] = counts_X[plain.n_keys :] = 1
                shares_HGRX = weights_HGRX * counts_X
                shares_HGRX = shares_HGRX / shares_HGRX.sum(-1, keepdim=True)
                scores_LHS[layer, :, start:end] = shares_HGRX[..., start:end].amax((1, 2))
        return scores_LHS


@torch.no_grad()
def test_the_repeat_quotes_what_stands_in_front_of_its_chunk(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, text = tiny_backbone().eval(), random_text([23, 7])
    read: list[list[list[int]]] = []

    def looked(_: object, args: tuple, kwargs: dict) -> None:
        read.append([ids[:n] for ids, n in zip(args[0].ids_BN.tolist(), args[0].lengths_B.tolist(), strict=True)])

    observed = backbone(text, observe=True).attention
    with_hook = backbone.register_forward_pre_hook(looked, with_kwargs=True)
    RepeatedText(chunk=10, first="A", others="B", suffix="C")(observed)
    with_hook.remove()
    a, b, c = (backbone.tokenizer.encode(x)[0] for x in "ABC")
    long, short = text.ids_BN[0].tolist(), text.ids_BN[1, :7].tolist()
    assert read == [
        [[a, c, *long[:10]], [a, c, *short]],
        [[b, *long[2:10], c, *long[10:20]], []],
        [[b, *long[12:20], c, *long[20:]], []],
    ]


@torch.no_grad()
def test_a_repeat_beyond_the_model_s_positions(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone().eval()
    observed = backbone(random_text([500]), observe=True).attention
    with pytest.raises(InputError, match="1039 positions, tiny-llama has 1024"):
        RepeatedText()(observed)


@pytest.mark.parametrize("given", [{"chunk": 0}, {"sinks": -1}])
def test_impossible(given: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1 token at a time"):
        RepeatedText(**given)
