"""What names a segment."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from r3mem import ConfigError
from r3mem.hierarchy import (
    Annotations,
    Document,
    EntityMentions,
    KeySentence,
    Lead,
    Mention,
    Node,
    NoQuery,
    QueryBuilder,
    SegmentTree,
    Title,
)

TEXT = " \nIt rained. Ann met\nBob  Ray and Ann. Then Bob  Ray saw Cy and Di. The end. \n"
NAMES = ("Ann", "Bob  Ray", "Ann", "Bob  Ray", "Cy", "Di")


@pytest.fixture
def found() -> Annotations:
    mentions, at = [], 0
    for name in NAMES:
        at = TEXT.index(name, at)
        mentions.append(Mention(at, at + len(name)))
        at += len(name)
    sentences = [TEXT.index(words) for words in ("It rained", "Ann met", "Then Bob", "The end")]
    return Annotations(sentences, mentions)


def asked(
    builder: QueryBuilder, tokenizer: PreTrainedTokenizerFast, found: Annotations, words: str = TEXT, title: str = ""
) -> list[str]:
    """Queries of the segment that holds some words of the text."""
    document = Document.of(TEXT, tokenizer, title=title)
    start = TEXT.index(words)
    end = start + len(words)
    node = Node(document.token_at(start), document.token_at(end), mentions=tuple(found.mentions_in(start, end)))
    return builder.queries(SegmentTree(document, [node]), node, found)


def test_lead(byte_tokenizer: PreTrainedTokenizerFast, found: Annotations) -> None:
    assert asked(Lead(9), byte_tokenizer, found) == ["It rained"]
    assert asked(Lead(9), byte_tokenizer, found, "rain") == ["rain"]
    assert asked(Lead(9), byte_tokenizer, found, " \n") == []
    with pytest.raises(ConfigError):
        Lead(0)


def test_title(byte_tokenizer: PreTrainedTokenizerFast, found: Annotations) -> None:
    assert asked(Title(2), byte_tokenizer, found, title="The\n rain ") == ["The rain"]
    assert asked(Title(2), byte_tokenizer, found, title=" ") == ["It"]


def test_key_sentence(byte_tokenizer: PreTrainedTokenizerFast, found: Annotations) -> None:
    # Three mentions in each of two sentences: the earlier one.
    assert asked(KeySentence(), byte_tokenizer, found) == ["Ann met Bob Ray and Ann."]
    # The part of the sentence that lies in the segment, with the mentions that begin there.
    assert asked(KeySentence(), byte_tokenizer, found, "and Ann. Then Bob  Ray saw Cy") == ["Then Bob Ray saw Cy"]
    assert asked(KeySentence(), byte_tokenizer, found, " \nIt rained.") == ["It rained."]
    assert asked(KeySentence(), byte_tokenizer, found, " \n") == []


def test_entity_mentions(byte_tokenizer: PreTrainedTokenizerFast, found: Annotations) -> None:
    assert asked(EntityMentions(), byte_tokenizer, found) == ["Ann, Bob Ray, Cy, Di"]
    # A mention belongs where it begins, and is told whole.
    assert asked(EntityMentions(), byte_tokenizer, found, "Ann. Then Bob ") == ["Ann, Bob Ray"]
    assert asked(EntityMentions(), byte_tokenizer, found, "It rained.") == []


def test_no_query(byte_tokenizer: PreTrainedTokenizerFast, found: Annotations) -> None:
    assert asked(NoQuery(), byte_tokenizer, found) == []
