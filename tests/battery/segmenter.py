"""What every segmenter has to keep, on any text. A new segmenter gets these tests by one subclass.

```python
class TestMySegmenter(SegmenterBattery):
    build = staticmethod(MySegmenter)
```
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from r3mem.hierarchy import Document, Mention, Part, Segmenter
from r3mem.plain_data.components import build, describe

PIECES = (
    "Sir Launcelot drew his sword.", " Then, in 1215, he went to York;", " nobody said why.", "word ", "a", "x" * 60,
    " ", "\t", "\n", "\r\n", "\r", "\n\n", "\n \t\n", "\r\n\r\n", "\x0b", "\u2028", "\xa0", "", "<eos>",
    "“Oh!” he cried.", "naïve", "漢字は難しい。", "😀", "👩‍👩‍👧", "e\u0301", "\x00", "...", "- - -",
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
"""Any text: characters at random, or pieces of prose, line ends of all kinds and characters of several bytes."""
HARD_TEXTS = ("", " ", "\n\n\n", "\r\n" * 40, "w" * 5000, "😀" * 90, "one line of words without an end " * 20)


def marked(text: str, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Document:
    """A document that marks parts and mentions of its own; some mentions overlap."""
    n_chars = len(text)
    places = sorted({(seed + 1) * i * i % (n_chars + 1) for i in range(1, 7)})
    parts = [Part(place, min(place + 9, n_chars), i % 2) for i, place in enumerate(places)]
    mentions = [Mention(place, min(place + 3 + 2 * i, n_chars)) for i, place in enumerate(places) if place < n_chars]
    return Document.of(text, tokenizer, parts=parts, mentions=mentions)


# Every subclass runs the same tests, each with a thing of its own: examples of one that are replayed for another do no
# harm, since all must pass for all.
INHERITED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors])


class SegmenterBattery:
    """Shared tests; a subclass names the segmenter.

    Attributes:
        build: Makes the segmenter, called without arguments.
    """

    build: ClassVar[Callable[[], Segmenter]]

    @INHERITED
    @given(text=TEXTS, tokens=st.integers(1, 40), seed=st.integers(0, 5))
    def test_cuts_lie_inside_in_order(
        self, byte_tokenizer: PreTrainedTokenizerFast, text: str, tokens: int, seed: int
    ) -> None:
        document = marked(text, byte_tokenizer, seed)
        for start, end in ((0, len(text)), (len(text) // 3, 2 * len(text) // 3)):
            cuts = self.build().cut(document, start, end, tokens)
            assert cuts == sorted(set(cuts)) and all(start < cut < end for cut in cuts)

    @INHERITED
    @given(text=TEXTS, tokens=st.integers(1, 40), seed=st.integers(0, 5))
    @example(text=HARD_TEXTS[4], tokens=32, seed=0)
    @example(text=HARD_TEXTS[5], tokens=3, seed=1)
    def test_pieces_tile_and_are_short_enough(
        self, byte_tokenizer: PreTrainedTokenizerFast, text: str, tokens: int, seed: int
    ) -> None:
        document = marked(text, byte_tokenizer, seed)
        segmenter, n_tokens = self.build(), len(document.ids)
        for first, last in ((0, n_tokens), (document.token_at(len(text) // 3), n_tokens)):
            at = first
            for begin, end in segmenter.pieces(document, first, last, tokens) if first < last else ():
                assert begin == at and 0 < end - begin <= tokens
                whole = begin not in document.inside and end not in document.inside
                # A character has at most four tokens here: pieces of four need never cut one.
                assert whole or tokens < 4
                if whole:
                    piece = text[document.char(begin) : document.char(end)]
                    assert byte_tokenizer.decode(document.ids[begin:end]) == piece
                at = end
            assert at == last

    @pytest.mark.parametrize("text", HARD_TEXTS)
    def test_hard_texts(self, byte_tokenizer: PreTrainedTokenizerFast, text: str) -> None:
        document = Document.of(text, byte_tokenizer)
        pieces = self.build().pieces(document, 0, len(document.ids), 48) if text else []
        assert "".join(text[document.char(a) : document.char(b)] for a, b in pieces) == text

    def test_described_and_built_again(self, byte_tokenizer: PreTrainedTokenizerFast) -> None:
        segmenter = self.build()
        again = build(describe(segmenter), Segmenter)
        document = marked("".join(PIECES), byte_tokenizer)
        n_chars = len(document.text)
        assert describe(again) == describe(segmenter)
        assert again.cut(document, 0, n_chars, 20) == segmenter.cut(document, 0, n_chars, 20)
