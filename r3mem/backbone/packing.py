"""Rows of one backbone pass laid one after another into fewer, longer rows (sequence packing).

Shape legend: B rows of a pass, S their stored positions, P of them the prefix's, N the text's; R packed rows, Z
positions of a packed row, U positions in use, H of them read by the head, D width, V vocabulary.

Of four rows (p prefix, x text, w write slots, . padding), packed into rows of 8 positions at most::

    stored        packed      row 0 sees itself alone, so does each of the others:
    p p x x x w   p p x x x w 2 2        0 0 0 0 0 0 2 2
    . . x x . w   1 1 1 3 3              1 1 1 3 3
    . . x x . .
    . . x . . w

Every row keeps its own position ids and its own order, so that nothing computed depends on where it was laid. Padding
inside a row (a prefix that is not there, what stands between a short text and its slots) is left out as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from r3mem.backbone.evaluation_mode import evaluating
from r3mem.backbone.language_model import LanguageModel
from r3mem.backbone.pass_layout import PassLayout
from r3mem.backbone.pass_masks import PassMasks, same_segment
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import Segments

PROBED_TOKENS, LARGEST_ERROR = 4, 0.05


def first_fit(lengths: Sequence[int], longest: int) -> list[list[int]]:
    """Which rows stand together: the longest first, each in the first packed row that has room for it.

    Args:
        lengths: Positions in use of each row; rows without any are left out.
        longest: Most positions of a packed row. A longer row stands alone.
    """
    packed: list[list[int]] = []
    room: list[int] = []
    for row in sorted((b for b, n in enumerate(lengths) if n), key=lambda b: -lengths[b]):
        place = next((r for r, left in enumerate(room) if left >= lengths[row]), len(packed))
        if place == len(packed):
            packed.append([])
            room.append(longest)
        packed[place].append(row)
        room[place] -= lengths[row]
    return packed


@dataclass
class Packing:
    """Where the positions of a pass stand in packed rows.

    Attributes:
        rows: R.
        width: Z.
        source_U: Where each position in use is stored, in ``BS`` counted through.
        target_U: Where it is laid, in ``RZ`` counted through.
        target_BS: The same for every stored position; 0 where nothing is.
        valid_BS: True where a stored position is in use.
        of_text_U: True where it is the text's.
        n_prefix: P.
        n_text: N.
        positions_RZ: Position ids.
        order_RZ: Where each stands among the others of its row.
        row_RZ: The row that it is of; -1 for padding.
        prefix_RZ: True at positions of the prefix.
        segment_RZ: Segment of each position of the prefix, -1 of all others; None where nothing is apart.
    """

    rows: int
    width: int
    source_U: Tensor
    target_U: Tensor
    target_BS: Tensor
    valid_BS: Tensor
    of_text_U: Tensor
    n_prefix: int
    n_text: int
    positions_RZ: Tensor
    order_RZ: Tensor
    row_RZ: Tensor
    prefix_RZ: Tensor
    segment_RZ: Tensor | None

    @classmethod
    def of(cls, layout: PassLayout, n_prefix: int, n_text: int, longest: int) -> Packing | None:
        """The packing of a pass, or None where that would not save a position.

        Args:
            layout: Positions of the pass.
            n_prefix: P.
            n_text: N.
            longest: Most positions of a packed row; a longer row of the pass stands alone.
        """
        valid_BS = layout.valid_BS
        n_batch, n_stored = valid_BS.shape
        lengths = valid_BS.sum(1).tolist()
        packed = first_fit(lengths, longest)
        rows, width = len(packed), max((sum(lengths[b] for b in row) for row in packed), default=0)
        if not 0 < rows * width < n_batch * n_stored:
            return None
        starts = [0] * n_batch
        for r, together in enumerate(packed):
            place = r * width
            for b in together:
                starts[b], place = place, place + lengths[b]
        device = valid_BS.device
        target_BS = torch.tensor(starts, device=device)[:, None] + valid_BS.cumsum(1) - 1
        target_BS = target_BS.masked_fill(~valid_BS, 0)
        source_U, target_U = valid_BS.flatten().nonzero()[:, 0], target_BS[valid_BS]

        def laid(of_U: Tensor, empty: int) -> Tensor:
            filled = of_U.new_full((rows * width,), empty).index_copy_(0, target_U, of_U)
            return filled.view(rows, width)

        stored_U = source_U % n_stored
        order_U = stored_U if layout.order_BS is None else layout.order_BS[valid_BS]
        of_text_U = (stored_U >= n_prefix) & (stored_U < n_prefix + n_text)
        return cls(
            rows, width, source_U, target_U, target_BS, valid_BS, of_text_U, n_prefix, n_text,
            laid(layout.positions_BS[valid_BS], 0), laid(order_U, 0), laid(source_U // n_stored, -1),
            laid((stored_U < n_prefix).long(), 0).bool(),
            None if layout.segment_BS is None else laid(layout.segment_BS[valid_BS], -1),
        )  # fmt: skip

    def masks(self, dtype: torch.dtype) -> PassMasks:
        """Attention masks: causal within a row, nothing across rows. Padding sees padding, and is seen by nothing else.

        Args:
            dtype: Of the masks.
        """
        same_RZZ = self.row_RZ[:, :, None] == self.row_RZ[:, None]
        seen_RZZ = same_RZZ & (self.order_RZ[:, None] <= self.order_RZ[:, :, None])
        if self.segment_RZ is not None:
            seen_RZZ = seen_RZZ & same_segment(self.segment_RZ, self.segment_RZ)
        below_RZZ = seen_RZZ & (self.prefix_RZ[:, :, None] | ~self.prefix_RZ[:, None])
        return PassMasks.additive(seen_RZZ, below_RZZ, dtype)

    def pack(self, stored_BSD: Tensor) -> Tensor:
        """What is stored, as it is laid: ``RZD``, zeros at padding."""
        width = stored_BSD.shape[-1]
        laid = stored_BSD.new_zeros(self.rows * self.width, width)
        laid = laid.index_copy_(0, self.target_U, stored_BSD.flatten(0, 1)[self.source_U])
        return laid.view(self.rows, self.width, width)

    def unpack(self, laid_RZD: Tensor) -> Tensor:
        """What is laid, as it was stored: ``BSD``, zeros at padding."""
        n_batch, n_stored = self.target_BS.shape
        stored = laid_RZD.new_zeros(n_batch * n_stored, laid_RZD.shape[-1])
        stored = stored.index_copy_(0, self.source_U, laid_RZD.flatten(0, 1)[self.target_U])
        return stored.view(n_batch, n_stored, -1)

    def with_prefix(self, laid_RZD: Tensor, states_BPD: Tensor) -> Tensor:
        """Packed hidden states with those of a prefix in their places."""
        n_stored = self.target_BS.shape[1]
        of_prefix_U = self.source_U % n_stored < self.n_prefix
        source_U = self.source_U[of_prefix_U]
        states_UD = states_BPD[source_U // n_stored, source_U % n_stored]
        flat = laid_RZD.flatten(0, 1).index_copy(0, self.target_U[of_prefix_U], states_UD)
        return flat.view_as(laid_RZD)

    def heads(self, last_B: Tensor | None) -> Tensor:
        """Positions that the head has to read, in ``RZ`` counted through: the text's, then each prefix's last.

        Args:
            last_B: Where the last state of each row's prefix stands; None if that is not asked for.
        """
        text_U = self.target_U[self.of_text_U]
        if last_B is None:
            return text_U
        return torch.cat([text_U, self._at(self.target_BS, last_B)[self._at(self.valid_BS, last_B)]])

    def logits(self, logits_HV: Tensor, last_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """``BNV`` at the text, and ``BV`` at each prefix's last state; zeros where there is nothing.

        Args:
            logits_HV: What the head made of the positions of :meth:`heads`.
            last_B: As there.
        """
        n_batch, n_stored = self.target_BS.shape
        source_U = self.source_U[self.of_text_U]
        place_U = source_U // n_stored * self.n_text + source_U % n_stored - self.n_prefix
        logits_NV = logits_HV.new_zeros(n_batch * self.n_text, logits_HV.shape[-1])
        logits_BNV = logits_NV.index_copy_(0, place_U, logits_HV[: len(place_U)]).view(n_batch, self.n_text, -1)
        if last_B is None:
            return logits_BNV, None
        rows = self._at(self.valid_BS, last_B).nonzero()[:, 0]
        opening_BV = logits_HV.new_zeros(n_batch, logits_HV.shape[-1])
        return logits_BNV, opening_BV.index_copy_(0, rows, logits_HV[len(place_U) :])

    @staticmethod
    def _at(of_BS: Tensor, place_B: Tensor) -> Tensor:
        return of_BS.gather(1, place_B[:, None])[:, 0]


@torch.no_grad()
def check_packing(backbone: LanguageModel, longest: int) -> None:
    """Find out by passes of a few tokens whether a model keeps packed rows apart: nothing is supposed of its family.

    Args:
        backbone: The language model; its packing is off.
        longest: Most positions of a packed row.

    Raises:
        ConfigError: No packed row is that short, or the model lets a row see another (layers that carry a state along
            the row, attention that does not follow the mask, places that do not follow the position ids).
    """
    if whole_setting(longest, "pack") < 1:
        raise ConfigError(f"pack {longest} is not possible: give the longest packed row in positions, or null for none")
    name = type(backbone.base).__name__
    if not backbone.takes("position_ids"):
        raise ConfigError(f"{name} takes no position ids, so its rows cannot be packed: set pack to null")
    ids_M = torch.arange(3 * PROBED_TOKENS, device=backbone.device) * 7 % backbone.vocabulary
    ids_2N = torch.stack([ids_M[: 2 * PROBED_TOKENS], ids_M[PROBED_TOKENS:]])
    # The longer row is laid first, so that the shorter one is what could see the other.
    text = Segments(ids_2N, torch.tensor([PROBED_TOKENS, 2 * PROBED_TOKENS], device=backbone.device))
    other = Segments((ids_2N + torch.tensor([[0], [1]], device=backbone.device)) % backbone.vocabulary, text.lengths_B)
    with evaluating(cast(nn.Module, backbone)):
        apart_BNV = backbone(text).logits_BNV
        try:
            backbone.pack = 3 * PROBED_TOKENS
            packed_BNV, beside_BNV = backbone(text).logits_BNV, backbone(other).logits_BNV
        finally:
            backbone.pack = None
    error = (packed_BNV - apart_BNV)[text.mask_BN].norm() / apart_BNV[text.mask_BN].norm()
    if not torch.equal(packed_BNV[0], beside_BNV[0]) or not error <= LARGEST_ERROR:
        raise ConfigError(f"rows of {name} that are packed into one see each other: set pack to null")
