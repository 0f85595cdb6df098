"""Columns of rows of unequal length on disk, memory-mapped.

A column ``ids`` of a folder is two files::

    ids.uint16.bin      all rows, end to end
    ids.offsets.npy     int64, rows + 1: row i is [offsets[i] : offsets[i + 1]]
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.atomic_folder import flush


class RaggedWriter:
    """Writes a column row by row; what stays in memory is eight bytes a row.

    Args:
        folder: Where the column goes.
        name: Its name.
        dtype: Type of its values.
    """

    def __init__(self, folder: Path, name: str, dtype: Any) -> None:
        self.folder, self.name, self.dtype = folder, name, np.dtype(dtype)
        self.file = (folder / f"{name}.{self.dtype.name}.bin").open("wb")
        self._offsets = array("q", [0])

    def __len__(self) -> int:
        """Rows so far."""
        return len(self._offsets) - 1

    @property
    def total(self) -> int:
        """Values so far."""
        return self._offsets[-1]

    def add(self, values: Sequence[int] | NDArray[Any] | bytes) -> None:
        """Write the next row."""
        row = values if isinstance(values, bytes) else np.asarray(values, self.dtype).tobytes()
        self.file.write(row)
        self._offsets.append(self._offsets[-1] + len(row) // self.dtype.itemsize)

    def close(self) -> None:
        """Write the offsets; see to it that all is on the disk."""
        flush(self.file)
        self.file.close()
        with (self.folder / f"{self.name}.offsets.npy").open("wb") as file:
            np.save(file, np.frombuffer(self._offsets, np.int64))
            flush(file)


class Ragged:
    """Reads a column that :class:`RaggedWriter` wrote.

    Args:
        folder: Where the column is.
        name: Its name.

    Raises:
        OSError: If it is not there or cannot be read.
        ValueError: If its files do not agree.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        found = list(folder.glob(f"{name}.*.bin"))
        if len(found) != 1:
            raise FileNotFoundError(f"{len(found)} files {name}.*.bin instead of one")
        self._path, self.dtype = found[0], np.dtype(found[0].name.split(".")[-2])
        if self._path.stat().st_size != self.total * self.dtype.itemsize:
            raise ValueError(f"sizes of {name} disagree")

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each row begins, and where the last one ends."""
        offsets: NDArray[np.int64] = np.load(self.folder / f"{self.name}.offsets.npy", mmap_mode="r")
        return offsets

    @cached_property
    def values(self) -> NDArray[Any]:
        """All rows, end to end."""
        if not self.total:
            return np.zeros(0, self.dtype)  # An empty file cannot be mapped.
        return np.memmap(self._path, dtype=self.dtype, mode="r")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def total(self) -> int:
        """Values of all rows."""
        return int(self.offsets[-1])

    def __getitem__(self, row: int) -> NDArray[Any]:
        """A row, read from disk as far as it is looked at."""
        return self.values[int(self.offsets[row]) : int(self.offsets[row + 1])]

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memmap is a full copy of the file: loader workers get the path and map it themselves.
        return {name: value for name, value in self.__dict__.items() if name not in ("offsets", "values")}
