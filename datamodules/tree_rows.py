"""Rows of pair batches that are read from stored trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Dataset

from datamodules.corpus import Corpus
from datamodules.pair_batch import EMPTY_ROW, NO_IDS, Ids, PairBatch, PairRow, collate_pairs
from datamodules.pair_sampler import RowDraw
from datamodules.tree_shape import TreeShape
from datamodules.tree_store import StoredNode, TreeStore
from r3mem.hierarchy import Document, SegmentTree


class TreeCorpus(Corpus[TreeStore], Sequence[Document]):
    """Documents of several stores, read from disk when they are asked for; see :class:`Corpus`."""

    def __getitem__(self, document: int) -> Document:  # type: ignore[override]
        """A whole document."""
        store, own = self.locate(document)
        return store.document(own)

    def __iter__(self) -> Iterator[Document]:
        return (self[document] for document in range(len(self)))

    def tree(self, document: int) -> SegmentTree:
        """The tree of a document."""
        store, own = self.locate(document)
        return store.tree(own)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document."""
        return self.counts("ids")

    @property
    def shape(self) -> TreeShape:
        """What the trees have in common."""
        return TreeShape.of([store.shape for store in self.stores])


class TreeRows(Dataset[PairRow]):
    """One row a leaf: the path from the top of the tree to it. One level only: ``segments_per_row`` leaves a row.

    Args:
        corpus: The documents.
        segments_per_row: T where the hierarchy has one level.
        pad_id: Stands beyond the lengths.
    """

    def __init__(self, corpus: TreeCorpus, segments_per_row: int = 2, pad_id: int = 0) -> None:
        self.corpus, self.segments_per_row, self.pad_id = corpus, segments_per_row, pad_id
        shape = corpus.shape
        self.levels, self.sources = shape.levels(segments_per_row), shape.sources(segments_per_row)
        self.one_level = shape.n_levels == 1
        leaves = corpus.counts("leaves")
        self._ends = np.cumsum(-(-leaves // segments_per_row) if self.one_level else leaves)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, draw: RowDraw) -> PairRow:
        if draw.row < 0:
            return EMPTY_ROW
        document = int(np.searchsorted(self._ends, draw.row, side="right"))
        place = draw.row - (int(self._ends[document - 1]) if document else 0)
        store, own = self.corpus.locate(document)
        nodes = self._nodes(store, own, place)
        rng = None if draw.seed is None else np.random.default_rng(draw.seed)
        ids = store.ids[own]
        queries = [self._query(store, node, rng) for node in nodes]
        segments = [NO_IDS if node is None else ids[node.start : node.end].astype(np.int64) for node in nodes]
        return PairRow(document, segments, queries, [len(query) > 0 for query in queries])

    def collate(self, rows: list[PairRow]) -> PairBatch:
        """One batch of rows."""
        return collate_pairs(rows, self.levels, self.sources, self.pad_id)

    def _nodes(self, store: TreeStore, document: int, place: int) -> list[StoredNode | None]:
        leaves = store.leaves[document]
        if self.one_level:
            begin = place * self.segments_per_row
            return [store.node(document, int(leaf)) for leaf in leaves[begin : begin + self.segments_per_row]]
        path: list[StoredNode | None] = [None] * len(self.levels)
        index = int(leaves[place])
        while index >= 0:
            node = store.node(document, index)
            path[node.level] = node
            index = node.parent
        return path

    @staticmethod
    def _query(store: TreeStore, node: StoredNode | None, rng: np.random.Generator | None) -> Ids:
        if node is None or not node.queries:
            return NO_IDS
        chosen = 0 if rng is None else int(rng.integers(node.queries))
        return store.queries[node.first_query + chosen].astype(np.int64)
