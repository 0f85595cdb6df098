"""Rows laid out as a batch."""

from __future__ import annotations

import numpy as np
import torch

from datamodules.pair_batch import EMPTY_ROW, NO_IDS, PairRow, collate_pairs


def ids(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_rows_of_unequal_length() -> None:
    rows = [
        PairRow(4, [ids(1, 2, 3), ids(1, 2)], [ids(9), NO_IDS], [True, False]),
        EMPTY_ROW,
        PairRow(0, [ids(5)], [ids(8, 8)], [True]),
    ]
    batch = collate_pairs(rows, levels=[0, 2], sources=[-1, 0], pad_id=7)
    assert batch["ids_BTN"].tolist() == [[[1, 2, 3], [1, 2, 7]], [[7] * 3] * 2, [[5, 7, 7], [7] * 3]]
    assert batch["lengths_BT"].tolist() == [[3, 2], [0, 0], [1, 0]]
    assert batch["query_BTQ"].tolist() == [[[9, 7], [7, 7]], [[7, 7]] * 2, [[8, 8], [7, 7]]]
    assert batch["query_lengths_BT"].tolist() == [[1, 0], [0, 0], [2, 0]]
    assert batch["relevant_BT"].tolist() == [[True, False], [False, False], [True, False]]
    assert batch["level_T"].tolist() == [0, 2] and batch["source_T"].tolist() == [-1, 0]
    assert batch["document_B"].tolist() == [4, -1, 0]


def test_a_batch_of_empty_rows_has_one_column() -> None:
    batch = collate_pairs([EMPTY_ROW] * 2, [1, 1, 1], [-1] * 3, pad_id=0)
    assert batch["ids_BTN"].shape == batch["query_BTQ"].shape == (2, 3, 1)
    assert not batch["lengths_BT"].any() and batch["document_B"].tolist() == [-1, -1]
    assert batch["relevant_BT"].dtype == torch.bool
