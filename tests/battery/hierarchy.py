"""What every hierarchy has to keep. A new hierarchy gets these tests by one subclass.

```python
class TestMyHierarchy(HierarchyBattery):
    build = staticmethod(MyHierarchy)
```
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from r3mem import ConfigError, InputError
from r3mem.hierarchy import Document, Hierarchy, Question
from r3mem.plain_data.components import build, describe
from tests.battery.segmenter import HARD_TEXTS, INHERITED, PIECES, TEXTS, marked


class HierarchyBattery:
    """Shared tests; a subclass names the hierarchy.

    Attributes:
        build: Makes the hierarchy; takes ``segment_tokens`` (most tokens of a leaf) and ``query_tokens``.
        needs_text: Whether it cuts texts only, not bare ids.
        whole_characters: Whether it never cuts a character in two that fits into a leaf.
    """

    build: ClassVar[Callable[..., Hierarchy]]
    needs_text: ClassVar[bool] = False
    whole_characters: ClassVar[bool] = True

    @INHERITED
    @given(text=TEXTS, segment_tokens=st.integers(1, 40), seed=st.integers(0, 5))
    @example(text=HARD_TEXTS[4], segment_tokens=48, seed=0)
    @example(text=HARD_TEXTS[5], segment_tokens=3, seed=0)
    def test_every_level_tiles_the_text(
        self, byte_tokenizer: PreTrainedTokenizerFast, text: str, segment_tokens: int, seed: int
    ) -> None:
        document = marked(text, byte_tokenizer, seed)
        tree = self.build(segment_tokens=segment_tokens).build(document)
        assert all(0 < leaf.end - leaf.start <= segment_tokens for leaf in tree.leaves)
        for level in {node.level for node in tree.nodes}:
            nodes = [node for node in tree.nodes if node.level == level]
            assert [node.start for node in nodes] == [0, *(node.end for node in nodes[:-1])]
            assert nodes[-1].end == len(document.ids)
        assert "".join(tree.text(leaf) for leaf in tree.leaves) == text
        assert [i for leaf in tree.leaves for i in tree.ids(leaf)] == document.ids

    @INHERITED
    @given(text=TEXTS, segment_tokens=st.integers(1, 40))
    def test_segments_decode_to_their_text(
        self, byte_tokenizer: PreTrainedTokenizerFast, text: str, segment_tokens: int
    ) -> None:
        document = marked(text, byte_tokenizer)
        tree = self.build(segment_tokens=segment_tokens).build(document)
        for node in tree.nodes:
            whole = node.start not in document.inside and node.end not in document.inside
            # A character has at most four tokens here.
            assert whole or segment_tokens < 4 or not self.whole_characters
            if whole:
                assert byte_tokenizer.decode(tree.ids(node)) == tree.text(node)

    @INHERITED
    @given(text=TEXTS, segment_tokens=st.integers(1, 40))
    def test_children_tile_parents_that_come_before_them(
        self, byte_tokenizer: PreTrainedTokenizerFast, text: str, segment_tokens: int
    ) -> None:
        tree = self.build(segment_tokens=segment_tokens).build(marked(text, byte_tokenizer))
        children: dict[int, list[int]] = {}
        for i, node in enumerate(tree.nodes):
            assert (node.parent is None) == (node.level == 0)
            if node.parent is not None:
                assert node.parent < i and tree.nodes[node.parent].level == node.level - 1
                children.setdefault(node.parent, []).append(i)
        for parent, own in children.items():
            nodes = [tree.nodes[i] for i in own]
            assert (nodes[0].start, nodes[-1].end) == (tree.nodes[parent].start, tree.nodes[parent].end)
            assert all(before.end == after.start for before, after in pairwise(nodes))

    @INHERITED
    @given(text=TEXTS, segment_tokens=st.integers(1, 40))
    def test_memories_that_are_read_were_written_before(
        self, byte_tokenizer: PreTrainedTokenizerFast, text: str, segment_tokens: int
    ) -> None:
        hierarchy = self.build(segment_tokens=segment_tokens)
        tree = hierarchy.build(marked(text, byte_tokenizer))
        for i, node in enumerate(tree.nodes):
            source = hierarchy.source(tree, i)
            assert source is None or (0 <= source < i and tree.nodes[source].start <= node.start)
        tops = [i for i, node in enumerate(tree.nodes) if node.level == 0]
        # The recurrent chain: without it a history would end with its first segment.
        assert [hierarchy.source(tree, i) for i in tops] == [None, *tops[:-1]][: len(tops)]

    @INHERITED
    @given(text=TEXTS, segment_tokens=st.integers(1, 40))
    def test_queries_are_single_lines(
        self, byte_tokenizer: PreTrainedTokenizerFast, text: str, segment_tokens: int
    ) -> None:
        hierarchy = self.build(segment_tokens=segment_tokens)
        document = marked(text, byte_tokenizer)
        document.questions = [Question("Who went\nwhere?", spans=((0, min(2, len(text))),))]
        tree = hierarchy.build(document)
        for i in range(len(tree.nodes)):
            for query in hierarchy.queries(tree, i):
                assert query == document.questions[0].text or (query and query == " ".join(query.split()))

    def test_the_same_document_gives_the_same_tree(self, byte_tokenizer: PreTrainedTokenizerFast) -> None:
        first, second = (marked("".join(PIECES) * 3, byte_tokenizer) for _ in range(2))
        assert self.build(segment_tokens=40).build(first) == self.build(segment_tokens=40).build(second)

    def test_levels_have_ratios(self, byte_tokenizer: PreTrainedTokenizerFast) -> None:
        hierarchy = self.build()
        tree = hierarchy.build(marked("".join(PIECES) * 9, byte_tokenizer))
        assert len(hierarchy.ratios) == 1 + max(node.level for node in tree.nodes)

    @INHERITED
    @given(n_tokens=st.integers(1, 400), segment_tokens=st.integers(1, 80), seed=st.integers(0, 9))
    def test_ids_alone(self, n_tokens: int, segment_tokens: int, seed: int) -> None:
        ids = random.Random(seed).choices(range(256), k=n_tokens)
        hierarchy = self.build(segment_tokens=segment_tokens)
        if self.needs_text:
            with pytest.raises(InputError, match=r"Document\.of"):
                hierarchy.build(Document(ids))
            return
        tree = hierarchy.build(Document(ids))
        assert [i for leaf in tree.leaves for i in tree.ids(leaf)] == ids

    def test_queries_of_ids_are_short_and_of_the_segment(self) -> None:
        hierarchy = self.build(query_tokens=5)
        for ids in ([7], list(range(5)), list(range(90))):
            query = hierarchy.query(ids)
            assert 0 < len(query) <= 5 and set(query) <= set(ids)

    def test_described_and_built_again(self, byte_tokenizer: PreTrainedTokenizerFast) -> None:
        hierarchy, ids = self.build(segment_tokens=7, query_tokens=3), list(range(100))
        again = build(describe(hierarchy), Hierarchy)
        document = marked("".join(PIECES), byte_tokenizer)
        assert describe(again) == describe(hierarchy)
        assert again.build(document) == hierarchy.build(document) and again.query(ids) == hierarchy.query(ids)

    @pytest.mark.parametrize("wrong", [{"segment_tokens": 0}, {"query_tokens": 1}])
    def test_impossible_sizes(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match="is not possible"):
            self.build(**wrong)
