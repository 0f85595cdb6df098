"""What every hierarchy has to keep. A new hierarchy gets these tests by one subclass.

```python
class TestMyHierarchy(HierarchyBattery):
    build = staticmethod(MyHierarchy)
```
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r3mem import ConfigError
from r3mem.components import build, describe
from r3mem.hierarchy import Document, Hierarchy


class HierarchyBattery:
    """Shared tests; a subclass names the hierarchy, which takes ``segment_tokens`` and ``query_tokens``."""

    build: ClassVar[Callable[..., Hierarchy]]

    @settings(max_examples=60, deadline=None)
    @given(n_tokens=st.integers(0, 400), segment_tokens=st.integers(1, 80), seed=st.integers(0, 9))
    def test_leaves_tile_the_document(self, n_tokens: int, segment_tokens: int, seed: int) -> None:
        ids = random.Random(seed).choices(range(256), k=n_tokens)
        tree = self.build(segment_tokens=segment_tokens).build(Document(ids))
        assert tree.document.ids == ids
        at = 0
        for leaf in tree.leaves:
            assert leaf.start == at and 0 < leaf.end - leaf.start <= segment_tokens
            at = leaf.end
        assert at == n_tokens

    @settings(max_examples=60, deadline=None)
    @given(n_tokens=st.integers(0, 400), segment_tokens=st.integers(1, 80), seed=st.integers(0, 9))
    def test_children_lie_inside_parents_that_come_before_them(
        self, n_tokens: int, segment_tokens: int, seed: int
    ) -> None:
        nodes = (
            self.build(segment_tokens=segment_tokens)
            .build(Document(random.Random(seed).choices(range(256), k=n_tokens)))
            .nodes
        )
        for i, node in enumerate(nodes):
            assert 0 <= node.start < node.end <= n_tokens
            if node.parent is None:
                assert node.level == 0
                continue
            parent = nodes[node.parent]
            assert node.parent < i and node.level > parent.level
            assert parent.start <= node.start and node.end <= parent.end

    def test_the_same_document_gives_the_same_tree(self) -> None:
        ids = random.Random(0).choices(range(256), k=300)
        assert self.build(segment_tokens=40).build(Document(ids)) == self.build(segment_tokens=40).build(
            Document(list(ids))
        )

    def test_queries_are_short_and_of_the_segment(self) -> None:
        hierarchy = self.build(query_tokens=5)
        for ids in ([7], list(range(5)), list(range(90))):
            query = hierarchy.query(ids)
            assert 0 < len(query) <= 5 and set(query) <= set(ids)

    def test_described_and_built_again(self) -> None:
        hierarchy, ids = self.build(segment_tokens=7, query_tokens=3), list(range(100))
        again = build(describe(hierarchy), Hierarchy)
        assert again.build(Document(ids)) == hierarchy.build(Document(ids)) and again.query(ids) == hierarchy.query(ids)

    @pytest.mark.parametrize("wrong", [{"segment_tokens": 0}, {"query_tokens": 1}])
    def test_impossible_sizes(self, wrong: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match="is not possible"):
            self.build(**wrong)
