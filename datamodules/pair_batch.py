"""Batches of (segment, query) pairs.

Shape legend: B rows, T segments of a row, N tokens of a segment, Q tokens of a query.

A row of a hierarchy is a path from the document level to a leaf; a row of a question is its candidate paragraphs::

    t  level_T  source_T   path row                        t  level_T  source_T   question row       relevant
    0     0        -1      document chunk  <- its query    0     1        -1      paragraph 3  \\         x
    1     1         0        paragraph     <- its query    1     1        -1      paragraph 0   question  .
    2     2         1          entity      <- its query    2     1        -1      paragraph 7  /         x
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int64]
NO_IDS: Ids = np.zeros(0, np.int64)


class PairBatch(TypedDict):
    """Segments, and queries that they answer.

    Attributes:
        ids_BTN: Token ids of the segments, ``long``, padded on the right.
        lengths_BT: Tokens in each segment, ``long``; 0 where a row has no segment.
        query_BTQ: Token ids of each segment's query as it stands behind a template (``QueryTemplate.placed``),
            ``long``, padded on the right.
        query_lengths_BT: Tokens in each query, ``long``; 0 where a segment has none.
        relevant_BT: ``bool``; whether the segment answers its query.
        level_T: Level of each segment, ``long``; the same in every row.
        source_T: Which earlier segment of the row is read while a segment is compressed, ``long``; -1 for none.
        document_B: Number of the row's document in its split, ``long``; -1 for a row without one.
    """

    ids_BTN: Tensor
    lengths_BT: Tensor
    query_BTQ: Tensor
    query_lengths_BT: Tensor
    relevant_BT: Tensor
    level_T: Tensor
    source_T: Tensor
    document_B: Tensor


class PairRow(NamedTuple):
    """One row before it is laid out; the three sequences have one entry a segment.

    Attributes:
        document: Number of the document in its split; -1 for an empty row.
        segments: Token ids of each segment.
        queries: Token ids of each segment's query; empty for none.
        relevant: Whether each segment answers its query.
    """

    document: int
    segments: Sequence[Ids]
    queries: Sequence[Ids]
    relevant: Sequence[bool]


EMPTY_ROW = PairRow(-1, (), (), ())


def collate_pairs(rows: Sequence[PairRow], levels: Sequence[int], sources: Sequence[int], pad_id: int) -> PairBatch:
    """Lay rows out as a batch; rows with fewer than T segments end in empty ones.

    Args:
        rows: The rows.
        levels: ``level_T``.
        sources: ``source_T``.
        pad_id: Stands beyond the lengths.
    """
    n_segments = len(levels)
    ids_BTN, lengths_BT = _padded([row.segments for row in rows], n_segments, pad_id)
    query_BTQ, query_lengths_BT = _padded([row.queries for row in rows], n_segments, pad_id)
    relevant_BT = torch.zeros(len(rows), n_segments, dtype=torch.bool)
    for b, row in enumerate(rows):
        relevant_BT[b, : len(row.relevant)] = torch.tensor(row.relevant, dtype=torch.bool)
    return PairBatch(
        ids_BTN=ids_BTN,
        lengths_BT=lengths_BT,
        query_BTQ=query_BTQ,
        query_lengths_BT=query_lengths_BT,
        relevant_BT=relevant_BT,
        level_T=torch.tensor(levels, dtype=torch.long),
        source_T=torch.tensor(sources, dtype=torch.long),
        document_B=torch.tensor([row.document for row in rows]),
    )


def _padded(rows: Sequence[Sequence[Ids]], n_segments: int, pad_id: int) -> tuple[Tensor, Tensor]:
    longest = max((len(ids) for row in rows for ids in row), default=0)
    # At least one column, so that a batch of empty rows can go through a model like any other.
    ids_BTM = torch.full((len(rows), n_segments, max(longest, 1)), pad_id, dtype=torch.long)
    lengths_BT = torch.zeros(len(rows), n_segments, dtype=torch.long)
    for b, row in enumerate(rows):
        for t, ids in enumerate(row):
            ids_BTM[b, t, : len(ids)] = torch.from_numpy(ids)
            lengths_BT[b, t] = len(ids)
    return ids_BTM, lengths_BT
