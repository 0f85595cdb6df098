"""Where prefix, text and write slots of one backbone pass stand: their positions, and who stands in front of whom.

Shape legend: B batch, P prefix, N text tokens, K write slots, S = P + N + K.

They are stored as ``[prefix ; text ; slots]``. Slots may nevertheless stand among the text; of a row of 7 tokens with
slots behind each third token and at the end, the order is::

    stored     x0 x1 x2 x3 x4 x5 x6 | s0 s1 s2
    position   0  1  2  4  5  6  8  | 3  7  9
    in order   x0 x1 x2 s0 x3 x4 x5 s1 x6 s2
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from r3mem.backbone.prefix import Prefix
from r3mem.errors import ConfigError
from r3mem.memory import Segments


@dataclass
class PassLayout:
    """Positions of one pass, as they are stored.

    Attributes:
        valid_BS: True where a position holds something.
        positions_BS: Position ids.
        order_BS: Where each stands among the others of its row; None where that is as they are stored.
        segment_BS: Segment of each position of the prefix, -1 of all others; None where nothing is apart.
    """

    valid_BS: Tensor
    positions_BS: Tensor
    order_BS: Tensor | None
    segment_BS: Tensor | None = None

    @classmethod
    def of(
        cls,
        text: Segments,
        prefix: Prefix | None,
        slot_mask_BK: Tensor | None,
        slot_positions_BK: Tensor | None,
        slots_after_BK: Tensor | None,
    ) -> PassLayout:
        """The layout of a pass; arguments as of `Backbone.forward`.

        Raises:
            ConfigError: Slots without their positions.
        """
        n_batch, n_text = text.ids_BN.shape
        token_BN = torch.arange(n_text, device=text.ids_BN.device).expand(n_batch, -1)
        valid, places, order_BS = [text.mask_BN], [token_BN], None
        if slot_mask_BK is not None:
            valid.append(slot_mask_BK)
            if slots_after_BK is not None:
                places = _interleaved(token_BN, slots_after_BK, slot_mask_BK)
                order_BS = torch.cat(places, 1)
            elif slot_positions_BK is not None:
                places.append(slot_positions_BK)
            else:
                raise ConfigError("write slots need their positions and their mask")
        positions_BS = torch.cat(places, 1)
        segment_BS = None if prefix is None else prefix.segments(positions_BS.shape[1])
        if prefix is not None:
            valid.insert(0, prefix.mask_BP)
            positions_BS = torch.cat([prefix.positions_BP, prefix.start_B[:, None] + positions_BS], 1)
            if order_BS is not None:
                before_P = torch.arange(-prefix.n_positions, 0, device=order_BS.device)
                order_BS = torch.cat([before_P.expand(n_batch, -1), order_BS], 1)
        return cls(torch.cat(valid, 1), positions_BS, order_BS, segment_BS)


def _interleaved(token_BN: Tensor, slots_after_BK: Tensor, slot_mask_BK: Tensor) -> list[Tensor]:
    """Places of the tokens and of the slots in one count of both; slots out of use move nothing."""
    n_text = token_BN.shape[1]
    new_BN1 = torch.zeros(len(token_BN), n_text + 1, dtype=torch.long, device=token_BN.device)
    new_BN1.scatter_add_(1, slots_after_BK.clamp(max=n_text), slot_mask_BK.long())
    slot_K = torch.arange(slots_after_BK.shape[1], device=token_BN.device)
    return [token_BN + new_BN1.cumsum(1)[:, :n_text], slots_after_BK + slot_K]
