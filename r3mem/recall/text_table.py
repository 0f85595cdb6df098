"""The text stream's alphabet: the backbone's embedding table, standardised, no two rows alike.

Shape legend: B batch, N text tokens, V vocabulary, D width, P dims of the projection that finds equal rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from r3mem.errors import ConfigError, InputError

NEAR = 0.01
"""Rows closer than this share of the typical row norm count as equal."""

PROJECTION_DIMS = 12
ROUNDS = 8
CHUNK_ROWS = 8192

_Matrix = npt.NDArray[np.float32]


class TextTable(nn.Module):
    """Float32 input of the text stream: one distinct row per token id.

    The embedding table is centred (mean over the vocabulary, each dim) and divided by its global standard deviation,
    so that every backbone gives a stream of about unit variance. Tables hold rows that are equal, or nearly: tokens
    never trained on, padding of the vocabulary. Text could not be read back from those, so the lowest id of each such
    group keeps its row, and a seeded random vector of the typical (median) row norm is added to every other.

    The table is rebuilt from the embedding, not saved, and stays float32 when the model around it is cast. It is
    the same for the same embedding and seed, whatever the device or number of threads: stored memories depend on it.

    Args:
        embedding_VD: The backbone's input embedding, any float type. It is copied.
        seed: Seed of the added vectors.

    Attributes:
        table_VD: The rows, float32, in a buffer that is not persistent.
        separated: How many rows were moved apart from an equal one.

    Raises:
        ConfigError: Not a matrix of two or more rows, not finite, all rows equal, or rows that cannot be separated.
    """

    table_VD: Tensor

    def __init__(self, embedding_VD: Tensor, seed: int = 0) -> None:
        super().__init__()
        if embedding_VD.ndim != 2 or embedding_VD.shape[0] < 2 or embedding_VD.shape[1] < 1:
            raise ConfigError(f"the embedding must be (two or more tokens, width); got {tuple(embedding_VD.shape)}")
        if embedding_VD.is_meta:
            raise ConfigError("the embedding has no values yet (meta device): load the backbone's weights first")
        table = embedding_VD.detach().to("cpu", torch.float32, copy=True).numpy()
        _standardise(table)
        moved_V = _separate(table, seed)
        self.separated = int(moved_V.sum())
        self.register_buffer("table_VD", torch.from_numpy(table).to(embedding_VD.device), persistent=False)

    def lookup(self, ids_BN: Tensor) -> Tensor:
        """The text stream of token ids.

        Args:
            ids_BN: Token ids, ``long``, of any shape.

        Returns:
            ``text_BND``, float32, on the table's device.

        Raises:
            InputError: An id outside the vocabulary. On accelerators torch itself reports it, later.
        """
        if ids_BN.device.type == "cpu" and ids_BN.numel():
            low, high = int(ids_BN.min()), int(ids_BN.max())
            if low < 0 or high >= len(self.table_VD):
                raise InputError(f"token ids {low}..{high} do not fit a vocabulary of {len(self.table_VD)}")
        return nn.functional.embedding(ids_BN.to(self.table_VD.device), self.table_VD)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TextTable:
        table_VD = self.table_VD
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # A model cast to bfloat16 must not take the table along: rounded rows coincide, and words are lost.
        self.table_VD = table_VD.to(self.table_VD.device)
        return self


def _chunks(n_rows: int) -> Iterator[slice]:
    """Fixed pieces, so that float64 sums neither copy the whole table nor depend on the number of threads."""
    return (slice(start, min(start + CHUNK_ROWS, n_rows)) for start in range(0, n_rows, CHUNK_ROWS))


def _standardise(table: _Matrix) -> None:
    """Centre each dim and divide by the global standard deviation, in place."""
    n_rows, width = table.shape
    total_D = np.zeros(width, np.float64)
    loudest = 0.0
    for rows in _chunks(n_rows):
        total_D += table[rows].sum(axis=0, dtype=np.float64)
        loudest = max(loudest, float(np.abs(table[rows]).max()))
    if not np.isfinite(total_D).all():
        raise ConfigError("the embedding holds NaN or infinity: check the backbone's weights")
    mean_D = total_D / n_rows
    squares = sum(float(np.square(table[rows] - mean_D).sum()) for rows in _chunks(n_rows))
    std = float(np.sqrt(squares / table.size))
    if std <= 1e-10 * loudest:
        raise ConfigError("all rows of the embedding are equal: load trained weights, or initialise the embedding")
    for rows in _chunks(n_rows):
        table[rows] = (table[rows] - mean_D) / std


def _separate(table: _Matrix, seed: int) -> npt.NDArray[np.bool_]:
    """Move every row that coincides with another away from it, in place; returns which rows were moved."""
    norms_V = np.concatenate([np.linalg.norm(table[rows].astype(np.float64), axis=1) for rows in _chunks(len(table))])
    typical = float(np.median(norms_V)) or float(np.sqrt(np.square(norms_V).mean()))
    moved_V = np.zeros(len(table), np.bool_)
    repeats, check = _equal_rows(table), np.arange(len(table))
    for attempt in range(ROUNDS):
        for row in repeats:
            table[row] += typical * _direction(seed, row, attempt, table.shape[1])
            moved_V[row] = True
        repeats = _near_rows(table, NEAR * typical, moved_V, check)
        if not repeats:
            return moved_V
        check = np.asarray(repeats)
    raise ConfigError(
        f"{len(repeats)} of {len(table)} embedding rows still coincide after {ROUNDS} attempts to separate them: "
        f"a width of {table.shape[1]} is too small for this vocabulary, use a wider backbone"
    )


def _equal_rows(table: _Matrix) -> list[int]:
    """Rows equal to an earlier one, in linear time: in a k-d tree, thousands of equal points take quadratic time."""
    seen: set[bytes] = set()
    repeats: list[int] = []
    for i, row_D in enumerate(table):
        key = hashlib.blake2b(row_D.data, digest_size=16).digest()
        if key in seen:
            repeats.append(i)
        seen.add(key)
    return repeats


def _near_rows(table: _Matrix, near: float, moved_V: npt.NDArray[np.bool_], check: npt.NDArray[np.int64]) -> list[int]:
    """Rows closer than ``near`` to a row that stays; looks around the rows of ``check`` only.

    A projection on orthonormal directions never lengthens a distance, so whatever is alone within ``near`` there is
    alone in full. One direction leaves thousands of suspects a row in a large vocabulary; twelve leave next to none.
    """
    from scipy.spatial import cKDTree  # type: ignore[import-untyped,unused-ignore]

    dims = min(PROJECTION_DIMS, table.shape[1])
    gaussian_DP = np.random.Generator(np.random.PCG64(0)).standard_normal((table.shape[1], dims))
    keys_VP = table @ np.linalg.qr(gaussian_DP)[0].astype(np.float32)
    reach = near * (1 + 1e-3)
    tree = cKDTree(keys_VP)
    second_nearest = tree.query(keys_VP[check], k=[2], distance_upper_bound=reach, workers=-1)[0][:, 0]
    crowded = check[np.isfinite(second_nearest)]
    neighbours = [np.asarray(tree.query_ball_point(keys_VP[row], reach), np.int64) for row in crowded]
    suspects = np.unique(np.concatenate([crowded, *neighbours]))
    waiting_V = np.zeros(len(table), np.bool_)
    waiting_V[suspects] = True
    repeats: list[int] = []
    # Rows moved earlier come last, so that none of them pushes an original row away.
    for row in suspects[np.lexsort((suspects, moved_V[suspects]))]:
        if not waiting_V[row]:
            continue
        waiting_V[row] = False
        others = np.asarray(tree.query_ball_point(keys_VP[row], reach), np.int64)
        others = others[waiting_V[others]]
        for start in range(0, len(others), CHUNK_ROWS):
            piece = others[start : start + CHUNK_ROWS]
            distances = np.linalg.norm(table[piece].astype(np.float64) - table[row], axis=1)
            close = piece[distances < near]
            waiting_V[close] = False
            repeats.extend(close.tolist())
    return sorted(repeats)


def _direction(seed: int, row: int, attempt: int, width: int) -> _Matrix:
    """A random unit vector of this row's own, from raw generator bits.

    Numpy keeps the raw bits of PCG64 the same in every version, which it does not promise for normal deviates.
    """
    raw_D = np.random.PCG64([seed, row, attempt]).random_raw(width)
    direction_D = (np.asarray(raw_D) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    unit_D: _Matrix = (direction_D / np.linalg.norm(direction_D)).astype(np.float32)
    return unit_D
