"""The shared tests for search by memory, its scores by hand, and that the model is left as it was.

Shape legend: N query tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from r3mem import Backbone, ConfigError, InputError, MemoryState, R3Mem, Segments
from r3mem.compressors import SelectedKeyValues
from r3mem.hierarchy import Flat
from r3mem.search import QueryLikelihood, Searcher
from tests.battery.searcher import PASSAGES, QUERY, PassageBattery
from tests.tiny_models import RATIO, WIDTH, awaken_adapters, tiny_r3mem


@pytest.fixture(scope="module")
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    backbone = tiny_backbone(lora_dropout=0.3)
    awaken_adapters(backbone)
    model = tiny_r3mem(backbone)
    model.calibrate(segment_tokens=32, segments=16)
    return model


class TestQueryLikelihood(PassageBattery):
    tolerance = 1e-3

    @pytest.fixture
    def searcher(self, model: R3Mem) -> Searcher:
        return QueryLikelihood(model, batch=2)


@pytest.mark.parametrize("ratio", [2, RATIO])
def test_score_by_hand(model: R3Mem, ratio: int) -> None:
    searcher = QueryLikelihood(model, ratio)
    searcher.index(PASSAGES)
    scores = searcher.scores(QUERY)
    model.eval()
    model.set_ratio(ratio)
    given, query = (model.tokens(text) for text in ("\nQuestion:", " " + QUERY))
    with torch.no_grad():
        for passage, score in zip(PASSAGES, scores, strict=True):
            state = model.step(Segments.pad([model.tokens(passage)])).state
            logits_NV = model.likelihood(Segments.pad([given + query]), state)[0].log_softmax(-1)
            expected = sum(float(logits_NV[len(given) + i - 1, token]) for i, token in enumerate(query))
            assert score == pytest.approx(expected, abs=1e-3)
    model.set_ratio(RATIO)


def test_only_memories_are_kept(model: R3Mem) -> None:
    searcher = QueryLikelihood(model, batch=3)
    searcher.index(PASSAGES)
    held = [kept for _, kept in searcher._kept]
    assert all(isinstance(state, MemoryState) and not state.slots_BKD.requires_grad for state in held)
    # Other memories in their place, and the scores are those of the other passages: nothing else was looked at.
    other = QueryLikelihood(model, batch=3)
    other.index([passage[::-1] for passage in PASSAGES])
    expected = other.scores(QUERY)
    searcher._kept = other._kept
    assert searcher.scores(QUERY) == expected


def test_positions_are_virtual_tokens(model: R3Mem) -> None:
    searcher = QueryLikelihood(model, ratio=8)
    assert searcher.positions_per_passage is None
    searcher.index(["x" * 17, "y" * 8])
    assert searcher.positions_per_passage == (3 + 1) / 2


def test_the_model_is_left_as_it_was(model: R3Mem) -> None:
    model.train()
    model.compressor.eval()
    modes = [part.training for part in model.modules()]
    searcher, plain = QueryLikelihood(model, ratio=2), QueryLikelihood(model, ratio=RATIO)
    for one in (searcher, plain):
        one.index(PASSAGES)
        assert one.scores(QUERY) == one.scores(QUERY)
        assert model.ratio == model.decoder.ratio == RATIO
        assert [part.training for part in model.modules()] == modes
    assert searcher.scores(QUERY) != plain.scores(QUERY)
    with pytest.raises(InputError, match="does not fit"):
        searcher.index(["x" * 1100])
    assert model.ratio == RATIO and [part.training for part in model.modules()] == modes
    with pytest.raises(ConfigError):
        QueryLikelihood(model, ratio=64).index(PASSAGES)
    assert model.ratio == RATIO
    model.eval()


def test_every_token_of_the_query_is_scored_behind_a_template(model: R3Mem) -> None:
    def split(template: str, query: str) -> tuple[str, str]:
        given, scored = QueryLikelihood(model, template=template).split(query)
        tokenizer = model.backbone.tokenizer
        return tokenizer.decode(given), tokenizer.decode(scored)

    assert split("\nQuestion: {query}", "Who?") == ("\nQuestion:", " Who?")
    assert split("\n{query}", "Who?") == ("\n", "Who?")
    assert split("{query}", "Who?") == ("W", "ho?")
    assert split(" {query}", "Who?") == (" ", "Who?")


@pytest.mark.parametrize(
    "wrong", [{"template": "Question:"}, {"template": "{query}\n"}, {"template": "{query}{query}"}, {"batch": 0}]
)
def test_impossible_settings(model: R3Mem, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"template|batch"):
        QueryLikelihood(model, **wrong)


def test_a_query_of_which_nothing_is_scored(model: R3Mem) -> None:
    searcher = QueryLikelihood(model, template="{query}")
    searcher.index(PASSAGES)
    with pytest.raises(InputError, match="no token is left"):
        searcher.scores("?")


def test_a_query_that_does_not_fit_behind_the_longest_passage(model: R3Mem) -> None:
    searcher = QueryLikelihood(model)
    searcher.index(["short", "x" * 950])
    with pytest.raises(InputError, match="does not fit the 1024 positions"):
        searcher.scores("y" * 80)


def test_a_passage_is_read_as_its_stored_memory(tiny_backbone: Callable[..., Backbone]) -> None:
    model = R3Mem(tiny_backbone(), SelectedKeyValues(WIDTH, 2, max_slots=6), hierarchy=Flat(512)).eval()
    searcher = QueryLikelihood(model, batch=1)
    searcher.index(PASSAGES[:2])
    for (_, kept), passage in zip(searcher._kept, PASSAGES[:2], strict=True):
        stored = model.state(model.retain(passage, precision="float32"))
        assert kept.slots_BKD.shape[1] == 6 and kept.lengths_B.tolist() == stored.lengths_B.tolist()
        torch.testing.assert_close(kept.slots_BKD, stored.slots_BKD)
