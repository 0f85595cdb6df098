"""Pooling that is sharp at the edges: a text's first words name it, its last words lead on to what follows.

Shape legend: B batch, N text tokens, K virtual tokens, S segments, D width.

Twelve tokens in four slots (ratio 3), a quarter of the slots for the first tokens and a quarter for the last::

    tokens   0 | 1  2  3  4  5 | 6  7  8  9  10 | 11
    slot     0 | 1             | 2              | 3
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from r3mem.compressors.controls.mean_pool import MeanPool
from r3mem.compressors.parts.hidden_state import without_sink
from r3mem.errors import ConfigError
from r3mem.memory import MemoryState, Segments, slots_needed


class EdgePool(MeanPool):
    """The first and the last tokens have a slot each; those between share the slots that are left, in even runs.

    A frozen backbone reads the state of a single token of a low layer as well as the token itself, and the mean of
    several hardly at all. So a few tokens kept sharp are worth more than many kept blurred, before training and after
    little of it. Which ones: the last, where a text goes on (raise ``last``); the first, where it is asked about, since
    titles and leads stand there (raise ``first``). The words that a slot carries are still those of its own tokens:
    only what the reader sees is divided otherwise.

    Args:
        width: D, width of the backbone.
        ratio: Text tokens per virtual token.
        write_layer: Decoder layer whose input states become the slots. Low layers are cheap, and a token's state there
            says what the token is; they know nothing of earlier memories.
        read_layer: Decoder layer at which a memory enters.
        first: Share of the slots for first tokens.
        last: Share of the slots for last tokens.
    """

    def __init__(
        self,
        width: int,
        ratio: int = 16,
        write_layer: int = 1,
        read_layer: int = 1,
        first: float = 0.25,
        last: float = 0.5,
    ) -> None:
        super().__init__(width, ratio, write_layer, read_layer)
        if min(first, last) < 0 or first + last > 1:
            raise ConfigError(
                f"first {first} and last {last} are not shares of the slots; give numbers from 0 that make at most 1"
            )
        self.first, self.last = first, last

    def pool(self, states_BND: Tensor, text: Segments) -> Tensor:
        """See :meth:`HiddenStateCompressor.pool`."""
        n_text = states_BND.shape[1]
        n_slots = slots_needed(n_text, self.ratio)
        stands_BKN = self._stands(text.lengths_B, n_text, n_slots, self.ratio) * without_sink(text)[:, None]
        total_BK1 = stands_BKN.sum(2, keepdim=True).clamp(min=1e-6)
        pooled_BKD: Tensor = stands_BKN @ states_BND.float() / total_BK1
        return pooled_BKD

    def positions(self, memory: MemoryState) -> Tensor:
        """See :meth:`HiddenStateCompressor.positions`."""
        n_slots, ratio = memory.slots_BKD.shape[1], memory.ratio
        if memory.segment_BK is None:
            return self._places(memory.lengths_B, n_slots, ratio)
        # Every segment is a text of its own, behind those before it.
        segment_BK = memory.segment_BK
        count_BS = (one_hot(segment_BK) * memory.mask_BK[..., None]).sum(1)
        before_BS = count_BS.cumsum(1) - count_BS
        # As wide as the largest segment, not as all of them: what is laid out grows with the square of it.
        n_own = max(1, int(count_BS.max()))
        places_BSK = self._places(ratio * count_BS.flatten(), n_own, ratio).view(*count_BS.shape, n_own)
        first_BK = before_BS.gather(1, segment_BK)
        own_BK = (torch.arange(n_slots, device=first_BK.device) - first_BK).clamp(0, n_own - 1)
        row_B1 = torch.arange(len(segment_BK), device=first_BK.device)[:, None]
        return places_BSK[row_B1, segment_BK, own_BK] + ratio * first_BK

    def _places(self, lengths_B: Tensor, n_slots: int, ratio: int) -> Tensor:
        """The centre of what each slot of one text stands for, ``long BK``."""
        n_text = n_slots * ratio
        stands_BKN = self._stands(lengths_B, n_text, n_slots, ratio)
        place_N = torch.arange(n_text, device=stands_BKN.device, dtype=stands_BKN.dtype)
        return ((stands_BKN @ place_N) / stands_BKN.sum(2).clamp(min=1)).long()

    def _stands(self, lengths_B: Tensor, n_text: int, n_slots: int, ratio: int) -> Tensor:
        """1 where a slot stands for a token, ``float BKN``; every token of a row has exactly one slot, in order."""
        slots_B = (lengths_B + ratio - 1) // ratio
        first_B, last_B = (slots_B * self.first).long(), (slots_B * self.last).long()
        # One slot at least is left for what lies between, if anything does.
        full_B = (first_B + last_B == slots_B) & (lengths_B > slots_B)
        last_B = torch.where(full_B & (last_B > 0), last_B - 1, last_B)
        first_B = torch.where(full_B & (last_B + first_B == slots_B), first_B - 1, first_B)
        between_B, shared_B = lengths_B - first_B - last_B, slots_B - first_B - last_B
        place_N = torch.arange(n_text, device=lengths_B.device)
        inside_BN = place_N - first_B[:, None]
        slot_BN = torch.where(
            inside_BN < 0,
            place_N,
            torch.where(
                inside_BN < between_B[:, None],
                first_B[:, None] + inside_BN * shared_B[:, None] // between_B.clamp(min=1)[:, None],
                (first_B + shared_B - between_B)[:, None] + inside_BN,
            ),
        )
        slot_BN = torch.where(place_N < lengths_B[:, None], slot_BN, -1)
        return (slot_BN[:, None] == torch.arange(n_slots, device=lengths_B.device)[:, None]).float()
