"""`MultiLevel` and `Refined`: the shared tests, what is read, which questions belong to which segment."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from jsonargparse import ArgumentParser
from transformers import PreTrainedTokenizerFast

from r3mem import ConfigError
from r3mem.hierarchy import (
    BlankLines,
    Document,
    EntityFinder,
    FixedWindows,
    Hierarchy,
    KeySentence,
    Level,
    Mention,
    MultiLevel,
    NoQuery,
    Part,
    Question,
    Refined,
    Structure,
)
from r3mem.plain_data.components import build, describe
from tests.battery.hierarchy import HierarchyBattery
from tests.hierarchy.levels import RULES, small_levels


def small_multi_level(segment_tokens: int = 16, query_tokens: int = 16) -> MultiLevel:
    return MultiLevel(small_levels(segment_tokens), RULES, query_tokens)


def small_refined(segment_tokens: int = 16, query_tokens: int = 16) -> Refined:
    return Refined(small_levels(segment_tokens), RULES, query_tokens)


class TestMultiLevel(HierarchyBattery):
    build = staticmethod(small_multi_level)
    needs_text: ClassVar[bool] = True


class TestRefined(HierarchyBattery):
    build = staticmethod(small_refined)
    needs_text: ClassVar[bool] = True


TEXT = "First Ann came.\n\nThen Bob Ray left for York.\n\nNobody spoke. It rained."


def test_what_is_read(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    document = Document.of(TEXT, byte_tokenizer)
    levels = [Level("top", BlankLines(), 50, 8), Level("low", BlankLines(), 30)]
    refined, multi = Refined(levels, RULES), MultiLevel(levels, RULES)
    tree = refined.build(document)
    assert multi.build(document) == tree
    assert [tree.text(node) for node in tree.nodes] == [
        "First Ann came.\n\nThen Bob Ray left for York.\n\n", "Nobody spoke. It rained.",
        "First Ann came.\n\n", "Then Bob Ray left for York.\n\n", "Nobody spoke. It rained.",
    ]  # fmt: skip
    assert [refined.source(tree, i) for i in range(5)] == [None, 0, 0, 0, 1]
    assert [multi.source(tree, i) for i in range(5)] == [None, 0, None, None, None]
    assert refined.ratios == [8, None] and refined.level_names == ["top", "low"] and refined.segment_tokens == 30


def test_chapters_are_not_packed_with_the_rest_of_a_longer_one(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "a" * 50 + "b" * 10 + "c" * 10
    document = Document.of(text, byte_tokenizer, parts=[Part(0, 50), Part(50, 60), Part(60, 70)])
    tree = Refined([Level("chapter", Structure(0), 40)], RULES).build(document)
    assert [tree.text(node) for node in tree.nodes] == ["a" * 40, "a" * 10, "b" * 10 + "c" * 10]


def test_mentions_belong_to_every_level_where_they_begin(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    mentions = [Mention(6, 9, "PER"), Mention(22, 29, "PER"), Mention(39, 43, "LOC")]
    document = Document.of(TEXT, byte_tokenizer, mentions=mentions)
    tree = small_refined(24).build(document)
    for level in range(3):
        nodes = [node for node in tree.nodes if node.level == level]
        assert [mention for node in nodes for mention in node.mentions] == mentions
        for node in nodes:
            first, last = tree.chars(node)
            assert all(first <= mention.start < last for mention in node.mentions)


def test_queries_by_level_then_questions_whose_answer_lies_there(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    questions = [
        Question("Who left?", "Bob Ray", ((22, 29),)),
        Question("All?", spans=((0, len(TEXT)),)),
        Question("?"),
    ]
    document = Document.of(TEXT, byte_tokenizer, title="A title", questions=questions)
    levels = small_levels(30)
    levels[1] = Level("paragraph", BlankLines(), 30, query=NoQuery())
    hierarchy = Refined(levels, RULES)
    tree = hierarchy.build(document)
    told = {(node.level, tree.text(node).strip()): hierarchy.queries(tree, i) for i, node in enumerate(tree.nodes)}
    assert told == {
        (0, TEXT): ["A title", "Who left?", "All?"],
        (1, "First Ann came."): [],
        (1, "Then Bob Ray left for York."): ["Who left?"],
        (1, "Nobody spoke. It rained."): [],
        (2, "First Ann came."): ["Ann"],
        (2, "Then Bob Ray left for York."): ["Bob Ray, York", "Who left?"],
        (2, "Nobody spoke. It rained."): [],
    }


@pytest.mark.parametrize("kind", [MultiLevel, Refined])
def test_defaults_go_through_json(kind: type[Hierarchy]) -> None:
    described = describe(kind())
    again: Any = build(json.loads(json.dumps(described)), Hierarchy)
    assert describe(again) == described and again.level_names == ["document", "paragraph", "entity"]
    assert again.ratios == [32, 16, 8] and again.segment_tokens == 48
    assert [level.tokens for level in again.levels] == [512, 128, 48]
    assert again.levels[0].segmenter.finer.finer.entities.cache is True


def test_levels_in_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--hierarchy", type=Hierarchy)
    text = """
    class_path: r3mem.hierarchy.Refined
    init_args:
      entities: {class_path: r3mem.hierarchy.EntityFinder, init_args: {model: rules}}
      levels:
        - {name: top, segmenter: {class_path: r3mem.hierarchy.Structure, init_args: {depth: 1}}, tokens: 64, ratio: 8}
        - name: low
          segmenter: {class_path: r3mem.hierarchy.FixedWindows}
          tokens: 16
          query: {class_path: r3mem.hierarchy.Lead, init_args: {tokens: 3}}
    """
    hierarchy = parser.instantiate_classes(parser.parse_args(["--hierarchy", text])).hierarchy
    assert isinstance(hierarchy, Refined) and isinstance(hierarchy.levels[1], Level)
    assert isinstance(hierarchy.levels[1].segmenter, FixedWindows) and hierarchy.levels[1].query.tokens == 3
    assert hierarchy.levels[0].segmenter.depth == 1 and hierarchy.ratios == [8, None]
    assert hierarchy.entities.model == "rules"


def test_levels_that_cannot_be() -> None:
    windows = FixedWindows()
    with pytest.raises(ConfigError, match="coarsest first"):
        Refined([Level("a", windows, 10), Level("b", windows, 20)], RULES)
    with pytest.raises(ConfigError, match="at least one level"):
        Refined([], RULES)
    with pytest.raises(ConfigError, match="ratio 0 is not possible"):
        Level("a", windows, 10, 0)


def test_no_entities_are_looked_for_in_nothing(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    hierarchy = Refined(small_levels(), EntityFinder("no_such_model", cache=False))
    assert hierarchy.build(Document.of("", byte_tokenizer)).nodes == []


def test_entities_are_looked_for_where_queries_are_made(
    byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise AssertionError("entities were looked for")

    monkeypatch.setattr(EntityFinder, "read", refuses)
    plain = MultiLevel([Level("top", FixedWindows(), 50), Level("low", FixedWindows(), 30)])
    assert all(node.mentions == () for node in plain.build(Document.of(TEXT, byte_tokenizer)).nodes)
    marked = plain.build(Document.of(TEXT, byte_tokenizer, mentions=[Mention(6, 9, "PER")]))
    assert [node.mentions for node in marked.nodes if node.start <= 6 < node.end] == [(Mention(6, 9, "PER"),)] * 2
    with pytest.raises(AssertionError, match="looked for"):
        MultiLevel([Level("top", FixedWindows(), 50, query=KeySentence())]).build(Document.of(TEXT, byte_tokenizer))
