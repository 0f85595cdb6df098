"""Search of trees by the words of recalled texts, and by words and likelihood together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from r3mem import Backbone, ConfigError, FingerprintError, InputError, R3Mem, RecallError, TreeMemory
from r3mem.compressors import MeanPool
from r3mem.hierarchy import BlankLines, FixedWindows, Level, MultiLevel
from r3mem.plain_data.query_template import TEMPLATE, QueryTemplate
from r3mem.reversible import PositionBinding, ReversibleStack
from r3mem.search import BM25, RandomOrder, TreeSearch
from r3mem.search.reciprocal_rank_fusion import reciprocal_ranks
from r3mem.search.tree_words import with_whole_words
from tests.tiny_models import WIDTH

TEXTS = [
    "Nothing at all is to be told of the first place.\n\nTicket QX-0091-b waits.\n\nHere a river runs, 24 € a day.",
    "A river.\n\n漢字漢字漢字漢字 stand between words.\n\n \n\nThe last place has a river, a river, and a tower.",
]
QUERY = "river tower"


@pytest.fixture(scope="module")
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    torch.manual_seed(0)
    levels = [
        Level("document", BlankLines(), tokens=80, ratio=8),
        Level("paragraph", BlankLines(), tokens=40, ratio=4),
        Level("window", FixedWindows(), tokens=14, ratio=2),
    ]
    stack = ReversibleStack([PositionBinding(WIDTH, 2, share=0.5)])
    return R3Mem(tiny_backbone(), MeanPool(WIDTH, 2, 1, 1), stack, MultiLevel(levels)).eval()


@pytest.fixture(scope="module")
def trees(model: R3Mem) -> list[TreeMemory]:
    return [model.retain_tree(text) for text in TEXTS]


def by_words(model: R3Mem, trees: list[TreeMemory], query: str, level: int | None) -> dict[tuple[int, int], float]:
    """BM25 over the texts of the nodes, best first; nodes without a word of the query are left out."""
    nodes = [(d, i) for d, tree in enumerate(trees) for i in tree.ends(level)]
    texts = [text for tree in trees for text in with_whole_words([model.recall(tree, i) for i in tree.ends(level)])]
    kept = [(at, text) for at, text in zip(nodes, texts, strict=True) if text.strip()]
    words = BM25()
    words.index([text for _, text in kept])
    found = {at: score for (at, _), score in zip(kept, words.scores(query), strict=True) if score}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


@pytest.mark.parametrize("level", [None, 0, 1, 2])
def test_by_words_is_bm25_over_the_recalled_texts(model: R3Mem, trees: list[TreeMemory], level: int | None) -> None:
    hits = TreeSearch(model, by="words").search(trees, QUERY, k=100, level=level)
    expected = by_words(model, trees, QUERY, level)
    assert {(hit.document, hit.node): hit.score for hit in hits} == pytest.approx(expected)
    assert [hit.score for hit in hits] == sorted(expected.values(), reverse=True) and len(hits) > 1


def test_a_word_that_a_cut_goes_through_is_whole_on_both_sides() -> None:
    texts = ["One MARK", "ER", "-7734, ", "two", " \n", "three"]
    expected = ["One MARKER-7734,", "MARKER-7734,", "MARKER-7734, ", "two", " \n", "three"]
    assert with_whole_words(texts) == expected
    assert with_whole_words(["字" * 40, "漢" * 40]) == ["字" * 40 + "漢" * 32, "字" * 32 + "漢" * 40]


def test_a_literal_in_two_windows_is_found_by_words(model: R3Mem, trees: list[TreeMemory]) -> None:
    cut = [i for i in trees[0].leaves if "QX" in (text := model.recall(trees[0], i)) and "QX-0091-b" not in text]
    hits = TreeSearch(model, by="words").search(trees, "0091")
    assert len(cut) == 1 and cut[0] in [hit.node for hit in hits] and {hit.document for hit in hits} == {0}


def test_both_adds_reciprocal_ranks(model: R3Mem, trees: list[TreeMemory]) -> None:
    every = [(d, i) for d, tree in enumerate(trees) for i in tree.leaves]
    search = TreeSearch(model, beam=len(every), by="both")
    hits = search.search(trees, QUERY, k=len(every))
    template, tokenizer = QueryTemplate(TEMPLATE), model.backbone.tokenizer
    given = template.given(tokenizer)
    read = search._scored(trees, every, given + template.scored(tokenizer, QUERY), len(given))
    expected = {(hit.document, hit.node): 1 / (60 + rank) for rank, hit in enumerate(
        sorted(read, key=lambda hit: -hit.score), start=1
    )}  # fmt: skip
    words = by_words(model, trees, QUERY, None)
    for at, share in zip(words, reciprocal_ranks(list(words.values())), strict=True):
        expected[at] += share
    assert {(hit.document, hit.node): hit.score for hit in hits} == pytest.approx(expected, abs=1e-6)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize("by", ["words", "both"])
def test_a_literal_is_found_that_the_beam_does_not_reach(model: R3Mem, trees: list[TreeMemory], by: str) -> None:
    for query, literal, level in (
        ("ticket QX-0091-b", "QX-0091-b", 1),
        ("€ 24", "24 €", 1),
        ("漢字漢字漢字漢字", "漢", 1),
    ):
        (hit,) = TreeSearch(model, beam=1, by=by).search(trees, query, k=1, level=level)
        assert literal in model.recall(trees[hit.document], hit.node)


def test_words_that_are_nowhere(model: R3Mem, trees: list[TreeMemory]) -> None:
    assert TreeSearch(model, by="words").search(trees, "dragon") == []
    likely = TreeSearch(model).search(trees, "dragon")
    both = TreeSearch(model, by="both").search(trees, "dragon")
    assert [(hit.document, hit.node) for hit in both] == [(hit.document, hit.node) for hit in likely]
    assert [hit.score for hit in both] == pytest.approx([1 / (60 + rank) for rank in range(1, 6)])


def test_texts_are_recalled_once_and_anew_for_other_trees(
    model: R3Mem, trees: list[TreeMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    recalled: list[int] = []
    recall_ids = model.recall_ids
    monkeypatch.setattr(model, "recall_ids", lambda memory: recalled.append(len(memory.digests)) or recall_ids(memory))
    search = TreeSearch(model, by="words")
    first = search.search(trees, QUERY)
    count = len(recalled)
    assert count >= len(trees) and search.search(list(trees), QUERY) == first and len(recalled) == count
    (hit, *_) = search.search(trees[::-1], QUERY)
    assert len(recalled) > count and hit.document == 1 - first[0].document and hit.node == first[0].node
    assert search.search(trees[:1], "tower") == []


def test_a_query_longer_than_the_window_is_searched_by_words_alone(model: R3Mem, trees: list[TreeMemory]) -> None:
    query = "tower " * 300
    (hit,) = TreeSearch(model, by="words").search(trees, query, k=1, level=1)
    assert "tower" in model.recall(trees[hit.document], hit.node)
    with pytest.raises(InputError, match="or search by 'words'"):
        TreeSearch(model, by="both").search(trees, query)


def test_trees_of_another_model_and_trees_that_were_changed(model: R3Mem) -> None:
    tree = model.retain_tree(TEXTS[0])
    search = TreeSearch(model, by="words")
    assert search.search([tree], "ticket")
    tree.levels[2].digests[0] += 1
    with pytest.raises(RecallError):
        search.search([tree], "ticket")
    tree = model.retain_tree(TEXTS[0])
    tree.levels[2].fingerprint["stack"] = "other"
    with pytest.raises(FingerprintError, match="another stack"):
        search.search([tree], "ticket")


def test_a_searcher_that_another_has_indexed_since(model: R3Mem, trees: list[TreeMemory]) -> None:
    words = BM25()
    one, other = (TreeSearch(model, by="words", words=words) for _ in range(2))
    first = one.search(trees, QUERY)
    assert other.search(trees[:1], QUERY) != first
    assert one.search(trees, QUERY) == first
    words.index(["river"] * 7)
    assert one.search(trees, QUERY) == first


def test_another_searcher_of_texts(model: R3Mem, trees: list[TreeMemory]) -> None:
    texts = [with_whole_words([model.recall(tree, i) for i in tree.leaves]) for tree in trees]
    leaves = [(d, i, text) for d, tree in enumerate(trees) for i, text in zip(tree.leaves, texts[d], strict=True)]
    leaves = [(d, i, text) for d, i, text in leaves if text.strip()]
    searcher = RandomOrder(seed=2)
    hits = TreeSearch(model, by="words", words=searcher).search(trees, QUERY, k=100)
    searcher.index([text for *_, text in leaves])
    expected = {(d, i): score for (d, i, _), score in zip(leaves, searcher.scores(QUERY), strict=True)}
    assert {(hit.document, hit.node): hit.score for hit in hits} == expected


def test_impossible_settings(model: R3Mem) -> None:
    for options, message in (
        ({"by": "text"}, "search by 'likelihood', 'words', 'both'"), ({"by": None}, "by None"),
        ({"by": "both", "words": "german"}, "words is a Searcher, not str"), ({"words": BM25()}, "leave it out"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            TreeSearch(model, **options)  # type: ignore[arg-type]
