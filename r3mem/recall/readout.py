"""Reading tokens off a text stream: the nearest row of a table, how sure that is, and what else it could be.

Shape legend: M queries (text positions), V vocabulary, C code dims, k candidates a query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from r3mem.errors import ConfigError, InputError

WIDEST_TREE = 24
"""Code dims above which a k-d tree takes longer than comparing with every row, unless the codes are nearly clean."""

FEW_CODES = 64
"""Codes that are searched without further threads."""

SCAN_ELEMENTS = 1 << 26
"""Distances held at once while comparing with every row: 256 MiB of float32."""

Method = Literal["auto", "tree", "product", "differences"]
_Ids = npt.NDArray[np.int64]
_Reals = npt.NDArray[np.float64]
_Singles = npt.NDArray[np.float32]
_Shortlist = tuple[_Ids, list[tuple[int, _Ids]]]


class NearestToken(nn.Module):
    """Nearest table row to each code, in Euclidean distance, with exact and device-independent ties.

    On the CPU the rows are held in a k-d tree, a few microseconds a token; on other devices, and for wide codes, every
    row is compared, chunk by chunk. All ways only shortlist: what they shortlist is measured again in float64, and
    equal distances go to the lowest id, so that a memory written on one device is read the same on another.

    The table is copied. Build another ``NearestToken`` when the table it was made from has changed.

    Args:
        table_VC: One code per token id, e.g. the token table projected by the coupling.
        tolerance: Distance, in units of the codes, by which the runner-up must be farther for a reading to be sure.
        method: ``"tree"``, ``"product"`` (compare with all rows by a matrix product) or ``"differences"`` (compare with
            all rows where the table is) force one way. ``"auto"``: the first for codes of at most ``WIDEST_TREE`` dims
            and the second for wider ones on the CPU, the third on other devices.

    Raises:
        ConfigError: The table is empty, not a matrix or not finite, or the tolerance is negative.
    """

    table_VC: Tensor

    def __init__(self, table_VC: Tensor, tolerance: float = 0.0, method: Method = "auto") -> None:
        super().__init__()
        if table_VC.ndim != 2 or 0 in table_VC.shape:
            raise ConfigError(f"the table must be (vocabulary, code dims), both above 0; got {tuple(table_VC.shape)}")
        if not bool(torch.isfinite(table_VC).all()):
            raise ConfigError("the table holds NaN or infinity: check the embedding and the projection it comes from")
        if method not in get_args(Method):
            raise ConfigError(f"method must be one of {', '.join(get_args(Method))}, not {method!r}")
        self.tolerance = _checked_tolerance(tolerance)
        self.method: Method = method
        self.register_buffer("table_VC", table_VC.detach().to(torch.float32, copy=True), persistent=False)
        self._tree: Any = None
        self._host_VC: _Singles | None = None

    def nearest(self, codes_MC: Tensor) -> tuple[Tensor, Tensor]:
        """Read one token off each code.

        Args:
            codes_MC: Codes, any float type; compared in float32.

        Returns:
            ``ids_M`` (``long``) and ``distance_M`` (float32), on the codes' device.

        Raises:
            InputError: Codes of another width than the table, or not finite.
        """
        ids_M1, distance_M1 = self.candidates(codes_MC, 1)
        return ids_M1[:, 0], distance_M1[:, 0]

    def candidates(self, codes_MC: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest tokens of each code, nearest first, equal distances by rising id.

        Args:
            codes_MC: Codes, any float type; compared in float32.
            k: Candidates a code, at least 1. A table with fewer rows gives all its rows.

        Returns:
            ``ids_Mk`` (``long``) and ``distances_Mk`` (float32), on the codes' device.

        Raises:
            InputError: Codes of another width than the table, or not finite.
            ConfigError: ``k`` below 1.
        """
        if k < 1:
            raise ConfigError(f"k must be at least 1, got {k}")
        k = min(k, self.table_VC.shape[0])
        self._check(codes_MC)
        host_MC: _Singles = codes_MC.detach().to("cpu", torch.float32).numpy()
        search = self._search_tree if self._way == "tree" else self._search_scan
        ids_Mk, crowded = search(host_MC, k)
        distances_Mk = self._distances(host_MC, ids_Mk)
        order_Mk = np.lexsort((ids_Mk, distances_Mk), axis=-1)
        ids_Mk = np.take_along_axis(ids_Mk, order_Mk, axis=-1)
        distances_Mk = np.take_along_axis(distances_Mk, order_Mk, axis=-1)
        for m, rivals in crowded:
            rival_distances = self._distances(host_MC[m : m + 1], rivals[None])[0]
            order = np.lexsort((rivals, rival_distances))[:k]
            ids_Mk[m], distances_Mk[m] = rivals[order], rival_distances[order]
        device = codes_MC.device
        return torch.from_numpy(ids_Mk).to(device), torch.from_numpy(distances_Mk).to(torch.float32).to(device)

    def ambiguous(self, codes_MC: Tensor, distance_M: Tensor) -> Tensor:
        """True where a second token is nearly as near as the first.

        Args:
            codes_MC: The codes that were read.
            distance_M: Their distances as ``nearest`` gave them.

        Returns:
            ``ambiguous_M``, bool, on the codes' device: at least two rows lie within ``distance + tolerance``.

        Raises:
            InputError: Codes that do not fit the table, or one distance a code is not given.
        """
        self._check(codes_MC)
        if distance_M.shape != codes_MC.shape[:1]:
            raise InputError(f"give one distance a code: {tuple(distance_M.shape)} for {tuple(codes_MC.shape)} codes")
        # The distance was rounded to float32: without the slack the nearest row itself can fall outside the ball.
        radius_M = (distance_M.detach().to("cpu", torch.float32).double() + self.tolerance) * (1 + 1e-6)
        if self._way == "tree":
            host_MC = codes_MC.detach().to("cpu", torch.float32).numpy()
            workers = _workers(host_MC)
            within_M = self._get_tree().query_ball_point(host_MC, radius_M.numpy(), return_length=True, workers=workers)
            ambiguous_M = torch.from_numpy(np.asarray(within_M) > 1)
        else:
            distances_Mk = self.candidates(codes_MC, 2)[1].cpu().double()
            ambiguous_M = (distances_Mk <= radius_M[:, None]).sum(1) > 1
        return ambiguous_M.to(codes_MC.device)

    @property
    def _way(self) -> Method:
        if self.method != "auto":
            return self.method
        if self.table_VC.device.type != "cpu":
            return "differences"
        return "tree" if self.table_VC.shape[1] <= WIDEST_TREE else "product"

    def _search_tree(self, host_MC: _Singles, k: int) -> _Shortlist:
        """Shortlist by the tree: k ids a query, and every rival of the queries where more than k fit the ball."""
        tree, workers = self._get_tree(), _workers(host_MC)
        distances, ids = tree.query(host_MC, k=[*range(1, k + 1)], workers=workers)
        # The tree breaks ties by where a row landed in it, so each ball is counted again, a hair wider.
        radius_M = distances[:, -1] * (1 + 1e-9)
        within_M = np.asarray(tree.query_ball_point(host_MC, radius_M, return_length=True, workers=workers))
        crowded = np.flatnonzero(within_M > k).tolist()
        rivals = [(m, np.asarray(tree.query_ball_point(host_MC[m], radius_M[m]), np.int64)) for m in crowded]
        return ids.astype(np.int64), rivals

    def _search_scan(self, host_MC: _Singles, k: int) -> _Shortlist:
        """Shortlist by comparing with every row; rivals are all whose order rounding leaves open."""
        ids_Mk = np.zeros((len(host_MC), k), np.int64)
        rivals: list[tuple[int, _Ids]] = []
        scan = self._scan_product if self._way == "product" else self._scan_differences
        step = max(1, SCAN_ELEMENTS // self.table_VC.shape[0])
        for start in range(0, len(host_MC), step):
            squared_mV, error_m1, relative_error = scan(host_MC[start : start + step])
            top_mk, top_ids_mk = squared_mV.min(1, keepdim=True) if k == 1 else squared_mV.topk(k, 1, largest=False)
            ids_Mk[start : start + step] = top_ids_mk.cpu().numpy()
            kth_m1 = top_mk.max(1, keepdim=True).values
            within_mV = squared_mV <= kth_m1 * (1 + 2 * relative_error) + 2 * error_m1
            for m in (within_mV.sum(1) > k).nonzero()[:, 0].tolist():
                rivals.append((start + m, within_mV[m].nonzero()[:, 0].cpu().numpy()))
        return ids_Mk, rivals

    def _scan_product(self, host_mC: _Singles) -> tuple[Tensor, Tensor, float]:
        """Squared distances (less each query's own square), by a matrix product, with their rounding error.

        Fast, but terms cancel: the error grows with the codes' norms. By numpy, because torch's product would follow
        TF32 and autocast.
        """
        squares_V = np.square(self._host).sum(1)
        squared_mV = host_mC @ self._host.T
        squared_mV *= -2
        squared_mV += squares_V
        norms_m1 = np.sqrt(np.square(host_mC).sum(1, keepdims=True))
        error_m1 = np.square(norms_m1 + np.sqrt(squares_V.max())) * np.float32(6e-8 * (host_mC.shape[1] + 8))
        return torch.from_numpy(squared_mV), torch.from_numpy(error_m1), 0.0

    def _scan_differences(self, host_mC: _Singles) -> tuple[Tensor, Tensor, float]:
        """Squared distances on the table's device, by differences: slower, but nothing cancels."""
        codes_mC = torch.from_numpy(host_mC).to(self.table_VC.device)
        distance_mV = torch.cdist(codes_mC, self.table_VC, compute_mode="donot_use_mm_for_euclid_dist")
        return distance_mV.square_(), distance_mV.new_zeros(len(host_mC), 1), 1.2e-7 * (host_mC.shape[1] + 8)

    def _distances(self, host_MC: _Singles, ids_Mk: _Ids) -> _Reals:
        """Float64 distances of the listed rows; a plain sum in one order, so that equal rows are exactly equal."""
        distances_Mk = np.empty(ids_Mk.shape, np.float64)
        step = max(1, (1 << 22) // (max(1, ids_Mk.shape[1]) * host_MC.shape[1]))
        for start in range(0, len(host_MC), step):
            rows = slice(start, start + step)
            offset_mkC = self._host[ids_Mk[rows]].astype(np.float64) - host_MC[rows, None, :]
            distances_Mk[rows] = np.sqrt(np.square(offset_mkC).sum(-1))
        return distances_Mk

    def _get_tree(self) -> Any:
        if self._tree is None:
            from scipy.spatial import cKDTree  # type: ignore[import-untyped,unused-ignore]

            self._tree = cKDTree(self._host)
        return self._tree

    @property
    def _host(self) -> _Singles:
        if self._host_VC is None:
            self._host_VC = self.table_VC.cpu().numpy()
        return self._host_VC

    def _check(self, codes_MC: Tensor) -> None:
        if codes_MC.ndim != 2 or codes_MC.shape[1] != self.table_VC.shape[1]:
            width = self.table_VC.shape[1]
            raise InputError(f"codes must be (positions, {width}) to fit the table; got {tuple(codes_MC.shape)}")
        if not bool(torch.isfinite(codes_MC).all()):
            raise InputError("the codes hold NaN or infinity: the memory they were read from is damaged")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NearestToken:
        table_VC = self.table_VC
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # A model moved to bfloat16 must not take the table along: rounded rows coincide, and words are lost.
        self.table_VC = table_VC.to(self.table_VC.device)
        return self


def _workers(host_MC: _Singles) -> int:
    """Threads of a search: all for many codes; for few, to start them takes longer than to search."""
    return -1 if len(host_MC) > FEW_CODES else 1


def _checked_tolerance(tolerance: float) -> float:
    if not tolerance >= 0:
        raise ConfigError(f"the tolerance must be 0 or more, got {tolerance}")
    return float(tolerance)
