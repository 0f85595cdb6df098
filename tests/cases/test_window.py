"""What needs more positions than the model has is an error that names the numbers, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from r3mem import Backbone, InputError, R3Mem
from r3mem.compressors import InterleavedTokens, MeanPool, SelectedKeyValues
from r3mem.compressors.scorers import RepeatedText
from r3mem.hierarchy import Flat, Level, MultiLevel
from r3mem.hierarchy.segmenters import FixedWindows
from r3mem.reversible import PositionBinding, ReversibleStack
from r3mem.search import QueryLikelihood, TextLikelihood, TreeSearch
from tests.tiny_models import FAMILIES, RATIO, WIDTH

WINDOW = 64
Make = Callable[..., R3Mem]


@pytest.fixture
def make(tiny_backbone: Callable[..., Backbone]) -> Make:
    """Models whose window is 64 positions."""

    def made(family: str = "llama", compressor: Any = None, hierarchy: Any = None) -> R3Mem:
        backbone = tiny_backbone(family, lora_rank=0)
        # gpt2 keeps its table of 1,024: a position beyond the window would be read without an error.
        backbone.base.config.max_position_embeddings = WINDOW
        compressor = MeanPool(WIDTH, RATIO, 1, 1) if compressor is None else compressor
        stack = ReversibleStack([PositionBinding(WIDTH, compressor.ratio, 0.5)])
        return R3Mem(backbone, compressor, stack, Flat(16) if hierarchy is None else hierarchy).eval()

    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_ends_at_the_last_position(make: Make, family: str) -> None:
    model = make(family)
    memory = model.retain("x" * 16)
    # The last new token is not read any more.
    for memories, prompt, new in ((None, 50, 15), (memory, 34, 15)):
        assert isinstance(model.generate("y" * prompt, memories, max_new_tokens=new), str)
        with pytest.raises(InputError, match=rf"prompt of {prompt + 1} tokens .* need 65 positions, .* has 64"):
            model.generate("y" * (prompt + 1), memories, max_new_tokens=new)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_whose_end_is_not_given(make: Make, family: str) -> None:
    model = make(family)
    model.backbone.base.generation_config.eos_token_id = None
    lengths = [len(row) for n in (20, 60) for row in model.backbone.generate([[1] * n], eos_token_id=None)]
    # It ends after 20 tokens, or at the window, where nothing says when.
    assert lengths == [20, 4]
    prefix = model.compressor.read(model.state(model.retain("x" * 16)))
    assert len(model.backbone.generate([[1] * 28], prefix, eos_token_id=None)[0]) == 20
    # 16 of the memory, 29 of the prompt and 20 new ones of which the last is not read; refused before any is made.
    assert len(model.backbone.generate([[1] * 29], prefix, eos_token_id=None)[0]) == 20
    with pytest.raises(InputError, match=r"30 tokens and 20 new ones need 65 positions, .* has 64"):
        model.backbone.generate([[1] * 30], prefix, eos_token_id=None)


@pytest.mark.parametrize("family", FAMILIES)
def test_retaining_a_segment_longer_than_the_window(make: Make, family: str) -> None:
    model = make(family, hierarchy=Flat(80))
    model.retain("x" * WINDOW)
    with pytest.raises(InputError, match=r"need 65 positions, .* has 64"):
        model.retain("x" * (WINDOW + 1))


def test_slots_among_the_text_count(make: Make) -> None:
    model = make(compressor=InterleavedTokens(WIDTH, RATIO), hierarchy=Flat(80))
    model.retain("x" * 51)
    with pytest.raises(InputError, match=r"need 65 positions, .* has 64"):
        model.retain("x" * 52)


def test_a_text_that_is_repeated_counts_twice(make: Make) -> None:
    scorer = RepeatedText(first="?", others="?", suffix="")
    model = make(compressor=SelectedKeyValues(WIDTH, RATIO, scorer, sinks=1), hierarchy=Flat(80))
    model.retain("x" * 31)
    with pytest.raises(InputError, match=r"a text and its repeat need 65 positions, .* has 64"):
        model.retain("x" * 32)


def test_records_that_stand_behind_each_other(make: Make) -> None:
    model = make()
    memory = model.retain("x" * WINDOW)
    assert model.recall(memory) == "x" * WINDOW
    assert isinstance(model.generate("y", memory, max_new_tokens=1), str)
    with pytest.raises(InputError, match="a memory of 64 positions, a prompt of 1 tokens and 1 new ones need 65"):
        model.generate("y", memory, reach="records", max_new_tokens=1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_search_of_passages(make: Make, family: str) -> None:
    model = make(family)
    for searcher in (QueryLikelihood(model, template="{query}"), TextLikelihood(model.backbone, template="{query}")):
        searcher.index(["short", "x" * 40])
        assert len(searcher.scores("y" * 24)) == 2
        with pytest.raises(InputError, match=r"passage of 40 positions and a query of 25 tokens need 65 .* has 64"):
            searcher.scores("y" * 25)
        searcher.index(["x" * WINDOW])
        with pytest.raises(InputError, match=r"passage of 65 positions and a query of 0 tokens need 65 .* has 64"):
            searcher.index(["x" * (WINDOW + 1)])


def test_search_of_what_takes_less_than_its_text(make: Make) -> None:
    """60 tokens are read as 15 slots, or as their first 15: there is room for a query of 49."""
    model = make(compressor=SelectedKeyValues(WIDTH, RATIO, sinks=1))
    for searcher in (
        QueryLikelihood(model, template="{query}"),
        TextLikelihood(model.backbone, template="{query}", ratio=RATIO),
    ):
        searcher.index(["x" * 60])
        assert len(searcher.scores("y" * 49)) == 1
        with pytest.raises(InputError, match=r"passage of 15 positions and a query of 50 tokens need 65 .* has 64"):
            searcher.scores("y" * 50)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_search_down_a_tree(make: Make, family: str) -> None:
    levels = [Level("whole", FixedWindows(), 48, ratio=RATIO), Level("part", FixedWindows(), 16, ratio=2)]
    model = make(family, compressor=MeanPool(WIDTH, 2, 1, 1), hierarchy=MultiLevel(levels))
    tree = model.retain_tree("x" * 48)
    search = TreeSearch(model, template="{query}")
    assert search.search([tree], "y" * 16)
    with pytest.raises(InputError, match=r"need 65 positions, .* has 64"):
        search.search([tree], "y" * 17)
