"""Exact share: every token's projection in an orthonormal block of its slot.

Shape legend: B batch, N text tokens, K virtual tokens, D width, C code dimensions of a token, E = ratio * C dimensions
of the exact share, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import check_whole
from r3mem.memory import slots_needed
from r3mem.memory.masks import keep_where, slot_mask, token_mask
from r3mem.reversible.base import Coupling
from r3mem.reversible.full_precision import at_least_float32, full_precision


class PositionBinding(Coupling):
    """Writes every token, projected to C dimensions, into its own orthonormal block of its slot (docs/method.md).

    ```
    F(U)_k     = sum_i B_i P u_{k,i}      P: C x D with orthonormal rows
    G(V)_{k,i} = P^T B_i^T v_k            B_i: D x C, all columns of [B_1 .. B_ratio] orthonormal;  G = F^T
    ```
    G(F(U)) is the orthogonal projection of U on the row space of P. On slots that have nothing in the share
    (`project_off_share`), the memory holds every token's code ``P u`` exactly, whatever else it holds. A text stream
    of unit variance gives codes of unit variance. Both matrices are drawn from the seed, neither trained nor stored.

    Slots of keys and values are read by attention, which words disturb. There they are few (``token_dims``), in the
    first dimensions of the slot (``block``), and quiet (``amplitude``): F is multiplied by it, G divided.
    """

    # Earlier versions could train both matrices; their saved stacks name it.
    removed_arguments: ClassVar = {"trainable": False}

    def __init__(
        self,
        width: int,
        ratio: int,
        share: float = 0.25,
        seed: int = 0,
        token_dims: int | None = None,
        block: int | None = None,
        amplitude: float = 1.0,
    ) -> None:
        """Draw the matrices.

        Args:
            width: D of the backbone.
            ratio: Text tokens per virtual token.
            share: Part of a slot's dimensions that carries words, above 0 and at most 1. C = floor(share * D / ratio).
            seed: Of both matrices. The rotation depends on width and seed alone.
            token_dims: Dimensions that a token takes at most: C is the smaller of this and what the share leaves it.
            block: The rotation mixes this many dimensions with each other, the next as many, and so on, so that words
                take the first dimensions of a slot first; None mixes all.
            amplitude: Factor of the words in a slot.

        Raises:
            ConfigError: A share out of range, or one that leaves a token less than one dimension.
        """
        super().__init__()
        check_whole(width=width, ratio=ratio, seed=seed)
        check_whole(token_dims=1 if token_dims is None else token_dims, block=1 if block is None else block)
        if (token_dims is not None and token_dims < 1) or amplitude <= 0 or (block is not None and block < 1):
            raise ConfigError(
                f"token_dims {token_dims}, block {block} and amplitude {amplitude} are not possible: give at least one "
                "dimension each, and an amplitude above 0"
            )
        if width < 1 or ratio < 1 or not 0 < share <= 1:
            raise ConfigError(
                f"width and ratio must be at least 1 and share above 0 and at most 1, got {width}, {ratio}, {share}"
            )
        # The small number undoes a product such as 0.3 * 10 / 3 that falls short of the integer it stands for.
        code_dims = math.floor(share * width / ratio + 1e-9)
        if code_dims < 1:
            raise ConfigError(_too_narrow(width, ratio, share))
        code_dims = code_dims if token_dims is None else min(code_dims, token_dims)
        self.token_dims, self.block, self.amplitude = token_dims, block, amplitude
        self.width, self.ratio, self.share, self.seed = width, ratio, share, seed
        self.code_dims = code_dims
        rotation_DD, projection_CD = (torch.tensor(m, dtype=torch.float32) for m in self._drawn())
        self.register_buffer("_rotation_DD", rotation_DD, persistent=False)
        self.register_buffer("_projection_CD", projection_CD, persistent=False)

    def at_ratio(self, ratio: int) -> PositionBinding:
        """The same rotation, cut into more or fewer blocks; see `Coupling.at_ratio`."""
        made = PositionBinding(self.width, ratio, self.share, self.seed, self.token_dims, self.block, self.amplitude)
        return made.to(self.get_buffer("_rotation_DD").device)

    @property
    def share_dims(self) -> int:
        """E: dimensions of a slot that carry words."""
        return self.ratio * self.code_dims

    @property
    def rotation_DD(self) -> Tensor:
        """Orthogonal, ``[B_1 .. B_ratio | basis of the rest]`` by columns; carries no gradient."""
        return self.get_buffer("_rotation_DD")

    def to_memory(self, text_BND: Tensor, lengths_B: Tensor) -> Tensor:
        """F: ``memory_BKD`` with each token's code in its block; see `Coupling.to_memory`."""
        batch, n_tokens, _ = text_BND.shape
        n_slots = slots_needed(n_tokens, self.ratio)
        text_BND = keep_where(token_mask(lengths_B, n_tokens), at_least_float32(text_BND))
        code_BNC = text_BND @ self._projection().T.to(text_BND.dtype)
        code_BNC = nn.functional.pad(code_BNC, (0, 0, 0, n_slots * self.ratio - n_tokens))
        share_BKE = code_BNC.reshape(batch, n_slots, self.share_dims) * self.amplitude
        return share_BKE @ self._basis().T.to(text_BND.dtype)

    def to_text(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> Tensor:
        """G: ``text_BND``, the codes in the embedding space again; see `Coupling.to_text`."""
        code_BNC = self._read(memory_BKD, lengths_B, n_tokens)
        return code_BNC @ self._projection().to(code_BNC.dtype)

    def code(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> Tensor:
        """Read the codes straight off a memory, to be compared with `code_table`.

        Only the memory stream right after this coupling holds them: in a longer stack, recall first and apply
        `code_table` to the text stream.

        Args:
            memory_BKD: Memory stream.
            lengths_B: Tokens in each row.
            n_tokens: N to return.

        Returns:
            ``code_BNC``; 0 at or beyond a row's length.
        """
        with full_precision(memory_BKD.device):
            return self._read(memory_BKD, lengths_B, n_tokens)

    def code_table(self, table_VD: Tensor) -> Tensor:
        """Codes of the rows of an embedding table, or of anything whose last dimension is D.

        Args:
            table_VD: Standardised embeddings, ``[..., D]``.

        Returns:
            ``[..., C]``.
        """
        with full_precision(table_VD.device):
            table_VD = at_least_float32(table_VD)
            return table_VD @ self._projection().T.to(table_VD.dtype)

    def project_off_share(self, slots_BKD: Tensor) -> Tensor:
        """The slots without their part in the exact share."""
        slots_BKD = at_least_float32(slots_BKD)
        basis_DE = self._basis().to(slots_BKD.dtype)
        return slots_BKD - (slots_BKD @ basis_DE) @ basis_DE.T

    def extra_repr(self) -> str:
        return (
            f"width={self.width}, ratio={self.ratio}, code_dims={self.code_dims}, share_dims={self.share_dims}, "
            f"seed={self.seed}"
        )

    def _read(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> Tensor:
        batch, n_slots, _ = memory_BKD.shape
        memory_BKD = keep_where(slot_mask(lengths_B, n_slots, self.ratio), at_least_float32(memory_BKD))
        share_BKE = memory_BKD @ self._basis().to(memory_BKD.dtype) / self.amplitude
        code_BNC = share_BKE.reshape(batch, n_slots * self.ratio, self.code_dims)[:, :n_tokens]
        return keep_where(token_mask(lengths_B, n_tokens), code_BNC)

    def _drawn(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``rotation_DD`` and ``projection_CD``, of NumPy alone so that every machine and torch version gets the same.

        What is left to differ is LAPACK's rounding, about 1e-15: compare stacks by their settings, not by these bits.
        """
        block = self.width if self.block is None else min(self.block, self.width)
        rotation_DD = np.zeros((self.width, self.width))
        for first in range(0, self.width, block):
            size = min(block, self.width - first)
            rotation_DD[first : first + size, first : first + size] = _random_orthonormal(size, size, self.seed, 0)
        projection_DC = _random_orthonormal(self.width, self.code_dims, self.seed, stream=1)
        return rotation_DD, np.ascontiguousarray(projection_DC.T)

    def _basis(self) -> Tensor:
        return self.get_buffer("_rotation_DD")[:, : self.share_dims]

    def _projection(self) -> Tensor:
        return self.get_buffer("_projection_CD")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PositionBinding:
        """Draw fixed matrices again where a cast or the meta device would have spoilt them.

        A module cast to bfloat16 as a whole (a trainer's "true" half precision does so) would keep matrices that are
        orthonormal to two digits only, and words with them.
        """
        before = self.get_buffer("_rotation_DD")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = self.get_buffer("_rotation_DD")
        if not after.is_meta and (after.dtype != before.dtype or before.is_meta):
            dtype = torch.promote_types(after.dtype, torch.float32)
            rotation_DD, projection_CD = self._drawn()
            self._rotation_DD = torch.tensor(rotation_DD, dtype=dtype, device=after.device)
            self._projection_CD = torch.tensor(projection_CD, dtype=dtype, device=after.device)
        return self


@lru_cache(maxsize=4)
def _random_orthonormal(rows: int, columns: int, seed: int, stream: int) -> NDArray[np.float64]:
    generator = np.random.Generator(np.random.PCG64([seed, stream]))
    q, r = np.linalg.qr(generator.standard_normal((rows, columns)))
    # QR leaves the sign of each column to the library.
    signed: NDArray[np.float64] = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    signed.flags.writeable = False  # Kept for the next coupling of this width: all ratios share one rotation.
    return signed


def _too_narrow(width: int, ratio: int, share: float) -> str:
    largest_ratio = math.floor(share * width + 1e-9)
    by_ratio = f"a ratio of at most {largest_ratio}" if largest_ratio else "a larger width"
    smallest_share = math.ceil(ratio / width * 1e4) / 1e4
    by_share = f", or a share of at least {smallest_share:g}" if ratio <= width else ""
    return (
        f"share {share:g} of width {width} leaves less than one dimension for each of {ratio} tokens: "
        f"use {by_ratio}{by_share}"
    )
