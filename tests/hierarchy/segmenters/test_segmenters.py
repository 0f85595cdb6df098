"""The shared tests of segmenters, and where each of them cuts."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from r3mem import ConfigError
from r3mem.hierarchy import (
    Annotations,
    BlankLines,
    Document,
    EntityFinder,
    EntitySentences,
    FixedWindows,
    Mention,
    Part,
    Segmenter,
    Structure,
)
from tests.battery.segmenter import TEXTS, SegmenterBattery, marked
from tests.hierarchy.levels import RULES


class TestStructure(SegmenterBattery):
    build = staticmethod(Structure)


class TestStructureFallingBack(SegmenterBattery):
    build = staticmethod(partial(Structure, depth=1, finer=BlankLines(finer=FixedWindows())))


class TestBlankLines(SegmenterBattery):
    build = staticmethod(BlankLines)


class TestFixedWindows(SegmenterBattery):
    build = staticmethod(FixedWindows)


class TestEntitySentences(SegmenterBattery):
    build = staticmethod(partial(EntitySentences, RULES))


class TestEntitySentencesCutInside(SegmenterBattery):
    build = staticmethod(partial(EntitySentences, RULES, cut_sentences=True))


def cut(segmenter: Segmenter, document: Document, tokens: int) -> list[str]:
    """The texts of the pieces."""
    pieces = segmenter.pieces(document, 0, len(document.ids), tokens)
    return [document.text[document.char(first) : document.char(last)] for first, last in pieces]


def test_structure_leaves_gaps_to_the_part_before(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    parts = [Part(4, 8, 0), Part(4, 6, 1), Part(6, 8, 1), Part(12, 16, 0)]
    document = Document.of("frontaaaa---bbbb", byte_tokenizer, parts=parts)
    assert Structure(0).cut(document, 0, 16, 4) == [4, 12] and Structure(1).cut(document, 0, 16, 4) == [4, 6, 12]
    assert Structure(1).cut(document, 4, 12, 4) == [6]
    with pytest.raises(ConfigError, match="depth -1"):
        Structure(-1)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_blank_lines(byte_tokenizer: PreTrainedTokenizerFast, end: str) -> None:
    paragraphs = [f"{end}{end}", f"one{end}line{end} \t{end}", f"  two{end}{end}{end}", "three"]
    document = Document.of("".join(paragraphs), byte_tokenizer)
    cuts = [sum(map(len, paragraphs[:i])) for i in range(1, 4)]
    assert BlankLines().cut(document, 0, len(document.text), 1) == cuts
    assert BlankLines().cut(document, cuts[0], cuts[2], 1) == cuts[1:2]
    assert BlankLines().cut(Document.of(f"a{end}b{end}c", byte_tokenizer), 0, 5, 1) == []


def test_neighbours_are_packed_and_long_ones_cut_finer(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    document = Document.of("aa\n\nbb\n\ncc\n\n" + "d" * 14 + "\n\nee\n\nff", byte_tokenizer)
    assert cut(BlankLines(), document, 9) == ["aa\n\nbb\n\n", "cc\n\n", "d" * 9, "d" * 5 + "\n\n", "ee\n\nff"]


def test_fixed_windows(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    assert cut(FixedWindows(), Document.of("abcdefghij", byte_tokenizer), 4) == ["abcd", "efgh", "ij"]
    assert cut(FixedWindows(), Document.of("abc😀defg", byte_tokenizer), 4) == ["abc", "😀", "defg"]
    # A character of four tokens in windows of three is cut through: the text lies in one of the pieces.
    assert cut(FixedWindows(), Document.of("a😀b", byte_tokenizer), 3) == ["a", "", "😀b"]


class Known(EntityFinder):
    """Is told where sentences begin."""

    def __init__(self, starts: list[int]) -> None:
        self.starts = starts

    def read(self, document: Document) -> Annotations:
        return Annotations(self.starts, document.mentions or ())


def sentences(text: str, tokenizer: PreTrainedTokenizerFast, names: tuple[str, ...] = ()) -> Document:
    return Document.of(text, tokenizer, mentions=[Mention(text.index(n), text.index(n) + len(n)) for n in names])


def test_every_segment_holds_a_mention_where_the_text_allows(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    # Packed from the left as far as they fit, the second segment would hold no name.
    text = "here Ann sat. then she ate. she ate more. by then Bob came."
    document = sentences(text, byte_tokenizer, ("Ann", "Bob"))
    segments = cut(EntitySentences(RULES), document, 42)
    assert segments == ["here Ann sat. then she ate. ", "she ate more. by then Bob came."]
    nothing = sentences(text, byte_tokenizer)
    assert len(cut(EntitySentences(RULES), nothing, 42)) == 2


def test_sentences_that_fit_are_cut_only_if_asked(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Ann sat with Bob, who ate. then she ate some more."
    document = sentences(text, byte_tokenizer, ("Ann", "Bob"))
    assert cut(EntitySentences(RULES), document, 40) == ["Ann sat with Bob, who ate. ", "then she ate some more."]
    cut_too = cut(EntitySentences(RULES, cut_sentences=True), document, 40)
    assert len(cut_too) == 2 and "Ann" in cut_too[0] and "Bob" in cut_too[1]


def test_a_long_sentence_is_cut_after_a_clause_and_beside_mentions(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "she went, as they say, to Ann Elizabeth of York and stayed"
    document = sentences(text, byte_tokenizer, ("Ann Elizabeth of York",))
    segments = cut(EntitySentences(RULES), document, 30)
    assert segments[0].rstrip() == "she went, as they say," and any("Ann Elizabeth of York" in s for s in segments)


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, tokens=st.integers(4, 40), seed=st.integers(0, 5))
def test_mentions_that_fit_are_not_cut(
    byte_tokenizer: PreTrainedTokenizerFast, text: str, tokens: int, seed: int
) -> None:
    document = marked(text, byte_tokenizer, seed)
    # Overlapping mentions together may be longer than a segment: take those that stand alone.
    alone = []
    for mention in document.mentions or ():
        if not alone or mention.start >= alone[-1].end:
            alone.append(mention)
    document.mentions = alone
    pieces = EntitySentences(RULES).pieces(document, 0, len(document.ids), tokens) if text else []
    borders = {first for first, _ in pieces}
    for mention in alone:
        first, last = document.token_at(mention.start), document.token_from(mention.end)
        assert last - first > tokens or not any(first < border < last for border in borders)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(3, 12), st.booleans()), min_size=2, max_size=9), tokens=st.integers(12, 30)
)
def test_no_way_to_pack_sentences_is_better(
    byte_tokenizer: PreTrainedTokenizerFast, lengths: list[tuple[int, bool]], tokens: int
) -> None:
    words = [("N" if named else "n") + "o" * (length - 3) + ". " for length, named in lengths]
    text = "".join(words)
    starts = [sum(map(len, words[:i])) for i in range(len(words))]
    mentions = [Mention(at, at + 1) for at, (_, named) in zip(starts, lengths, strict=True) if named]
    document = Document.of(text, byte_tokenizer, mentions=mentions)
    borders = set(starts)

    def faults(cuts: list[int]) -> tuple[int, int]:
        ends = [*cuts, len(text)]
        empty = sum(not any(a <= m.start < b for m in mentions) for a, b in zip([0, *cuts], ends, strict=True))
        return empty, len(ends)

    every: list[list[int]] = [[]]
    for start in sorted(borders - {0}):
        every += [[*cuts, start] for cuts in every]
    fitting = [c for c in every if all(b - a <= tokens for a, b in zip([0, *c], [*c, len(text)], strict=True))]
    made = EntitySentences(Known(starts)).cut(document, 0, len(text), tokens)
    assert set(made) <= borders and faults(made) == min(map(faults, fitting))
