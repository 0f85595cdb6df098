"""Columns on disk."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from datamodules.ragged import Ragged, RaggedWriter


def test_rows_come_back(tmp_path: Path) -> None:
    rows: list[list[int]] = [[1, 2, 65_535], [], [7]]
    writer = RaggedWriter(tmp_path, "ids", np.uint16)
    for row in rows:
        writer.add(row)
    assert len(writer) == 3 and writer.total == 4
    writer.close()
    column = Ragged(tmp_path, "ids")
    assert [row.tolist() for row in (column[i] for i in range(len(column)))] == rows
    assert isinstance(column.values, np.memmap) and column.dtype == np.uint16
    again = pickle.loads(pickle.dumps(column))
    assert again[2].tolist() == [7] and len(pickle.dumps(column)) < 1000


def test_empty_and_byte_columns(tmp_path: Path) -> None:
    empty, texts = RaggedWriter(tmp_path, "empty", np.int64), RaggedWriter(tmp_path, "texts", np.uint8)
    empty.add([])
    texts.add("Größe".encode())
    empty.close()
    texts.close()
    assert Ragged(tmp_path, "empty")[0].tolist() == []
    assert Ragged(tmp_path, "texts")[0].tobytes().decode() == "Größe"


def test_damage_is_noticed(tmp_path: Path) -> None:
    writer = RaggedWriter(tmp_path, "ids", np.uint32)
    writer.add([1, 2])
    writer.close()
    (tmp_path / "ids.uint32.bin").write_bytes(b"abc")
    with pytest.raises(ValueError, match="sizes of ids disagree"):
        Ragged(tmp_path, "ids")
    with pytest.raises(FileNotFoundError, match=r"0 files other"):
        Ragged(tmp_path, "other")
