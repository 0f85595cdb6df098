"""What one pass takes: segments of texts going in, and the memory that they are read with.

Shape legend: B batch, N text tokens, K virtual tokens, D width of what is kept of each: the backbone's, or more
(`Compressor.memory_width`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from r3mem.errors import InputError
from r3mem.errors.given_texts import given_ids
from r3mem.errors.whole_numbers import whole_number
from r3mem.plain_data.by_content import ByContent


def slots_needed(n_tokens: int, ratio: int) -> int:
    """Number of virtual tokens that ``n_tokens`` text tokens are compressed to: ``ceil(n / ratio)``."""
    return -(-n_tokens // ratio)


@dataclass(eq=False, repr=False)
class Segments(ByContent):
    """One segment of each of B texts, padded on the right.

    Attributes:
        ids_BN: Token ids, ``long``. What stands beyond a row's length is ignored.
        lengths_B: Tokens in each row, ``long``. 0 means that the row is empty (its document has ended).
    """

    ids_BN: Tensor
    lengths_B: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.ids_BN, Tensor) or self.ids_BN.ndim != 2 or self.ids_BN.is_floating_point():
            raise InputError("ids_BN is a tensor of token ids, a row a text: make it with Segments.pad")
        if not isinstance(self.lengths_B, Tensor) or self.lengths_B.shape != self.ids_BN.shape[:1]:
            raise InputError(f"lengths_B holds one length for each of the {len(self.ids_BN)} rows of ids_BN")

    @classmethod
    def pad(cls, rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Segments:
        """Put token lists of unequal length into one batch.

        Args:
            rows: One list of token ids a row.
            device: Where the tensors live.
        """
        if not len(rows):
            raise InputError("no segments given: pass at least one list of token ids")
        rows = [given_ids(row, f"segment {b}") for b, row in enumerate(rows)]
        width = max(1, max(len(row) for row in rows))
        ids_BN = torch.zeros(len(rows), width, dtype=torch.long)
        for b, row in enumerate(rows):
            ids_BN[b, : len(row)] = torch.as_tensor(row, dtype=torch.long)
        lengths_B = torch.tensor([len(row) for row in rows], dtype=torch.long)
        return cls(ids_BN.to(device), lengths_B.to(device))

    @classmethod
    def whole(cls, ids_BN: Tensor) -> Segments:
        """Rows of equal length, none of them padded."""
        return cls(ids_BN, torch.full((len(ids_BN),), ids_BN.shape[1], device=ids_BN.device))

    @property
    def mask_BN(self) -> Tensor:
        """True where a real token stands."""
        return torch.arange(self.ids_BN.shape[1], device=self.ids_BN.device) < self.lengths_B[:, None]


@dataclass(eq=False, repr=False)
class MemoryState(ByContent):
    """Virtual memory tokens as the next segment (or a question) reads them: fixed size, however long the history.

    Slot k of a row stands for text tokens ``k * ratio`` to ``(k + 1) * ratio - 1`` of the segment it was written from.
    A compressor that accumulates puts those of several segments one after the other, up to a number of its own.

    Attributes:
        slots_BKD: The virtual tokens.
        lengths_B: Text tokens each row covers; 0 means that the row holds nothing.
        ratio: Text tokens per virtual token.
        segment_BK: Where the slots of several segments stand one after the other, the number of each slot's segment, in
            rising order; None where they are of one.
    """

    slots_BKD: Tensor
    lengths_B: Tensor
    ratio: int
    segment_BK: Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.slots_BKD, Tensor) or self.slots_BKD.ndim != 3:
            raise InputError("slots_BKD is a tensor of rows, slots and numbers of a slot: R3Mem.state makes it")
        if not isinstance(self.lengths_B, Tensor) or self.lengths_B.shape != self.slots_BKD.shape[:1]:
            raise InputError(f"lengths_B holds one length for each of the {len(self.slots_BKD)} rows of slots_BKD")
        if whole_number(self.ratio, "ratio") < 1:
            raise InputError(f"ratio {self.ratio} is not possible: at least 1 text token per virtual token")

    @classmethod
    def one_after_the_other(cls, segments: Sequence[Tensor], ratio: int) -> MemoryState:
        """Slots of several segments as one memory; a last slot counts for a whole ``ratio``, so that steps are equal.

        Args:
            segments: Slots in use of each segment, ``BKD``.
            ratio: Text tokens per virtual token.
        """
        if not segments:
            raise InputError("no segments given: a memory state holds at least one")
        slots_BKD = torch.cat(list(segments), 1)
        n_rows, n_slots, device = len(slots_BKD), slots_BKD.shape[1], slots_BKD.device
        number_K = torch.cat([torch.full((s.shape[1],), i, device=device) for i, s in enumerate(segments)])
        lengths_B = torch.full((n_rows,), n_slots * ratio, device=device)
        return cls(slots_BKD, lengths_B, ratio, number_K.expand(n_rows, -1))

    @classmethod
    def stacked(cls, states: Sequence[MemoryState]) -> MemoryState:
        """Rows of several states, with slots of zeros behind those that have fewer.

        Args:
            states: At least one, all of one ratio.

        Raises:
            InputError: There is none, or their ratios differ: the rows of one state are read at one.
        """
        if not states:
            raise InputError("no memory states given: stack at least one")
        if len({state.ratio for state in states}) > 1:
            ratios = sorted({state.ratio for state in states})
            raise InputError(f"states of the ratios {ratios} are no one state: read each apart")
        more = [max(s.slots_BKD.shape[1] for s in states) - s.slots_BKD.shape[1] for s in states]
        slots = [pad(s.slots_BKD, (0, 0, 0, k)) for s, k in zip(states, more, strict=True)]
        segment_BK = None
        if any(s.segment_BK is not None for s in states):
            numbers = [
                s.lengths_B.new_zeros(s.slots_BKD.shape[:2]) if s.segment_BK is None else s.segment_BK for s in states
            ]
            segment_BK = torch.cat([pad(number_BK, (0, k)) for number_BK, k in zip(numbers, more, strict=True)])
        return cls(torch.cat(slots), torch.cat([s.lengths_B for s in states]), states[0].ratio, segment_BK)

    @property
    def mask_BK(self) -> Tensor:
        """True where a slot stands for at least one text token."""
        first_token_K = torch.arange(self.slots_BKD.shape[1], device=self.slots_BKD.device) * self.ratio
        return first_token_K < self.lengths_B[:, None]

    def rows(self, index_A: Tensor) -> MemoryState:
        """The state of some rows.

        Args:
            index_A: Row numbers, ``long``.
        """
        segment_AK = None if self.segment_BK is None else self.segment_BK[index_A]
        return MemoryState(self.slots_BKD[index_A], self.lengths_B[index_A], self.ratio, segment_AK)

    def to(self, device: torch.device | str) -> MemoryState:
        """The same state on a device."""
        segment_BK = None if self.segment_BK is None else self.segment_BK.to(device)
        return MemoryState(self.slots_BKD.to(device), self.lengths_B.to(device), self.ratio, segment_BK)

    def detach(self) -> MemoryState:
        """The same state, cut from the graph: where truncated back-propagation ends."""
        return replace(self, slots_BKD=self.slots_BKD.detach())

    def forget(self, rows_B: Tensor) -> MemoryState:
        """The same state with the marked rows emptied, for rows that begin a new document.

        Args:
            rows_B: ``bool``; True empties the row.
        """
        keep_B = ~rows_B
        return replace(
            self,
            slots_BKD=self.slots_BKD * keep_B[:, None, None].to(self.slots_BKD.dtype),
            lengths_B=self.lengths_B * keep_B.to(self.lengths_B.dtype),
        )

    def filled_from(self, before: MemoryState) -> MemoryState:
        """The same state, with rows that hold nothing as they were before.

        Args:
            before: The state of the same rows before.
        """
        empty_B = self.lengths_B == 0
        n_slots, n_before = self.slots_BKD.shape[1], before.slots_BKD.shape[1]
        if n_slots != n_before and not bool((empty_B & (before.lengths_B > 0)).any()):
            return self  # Where segments differ in width, or a compressor accumulates: no slots of zeros for nothing.
        mine, theirs = (0, max(0, n_before - n_slots)), (0, max(0, n_slots - n_before))
        pad, segment_BK = torch.nn.functional.pad, self.segment_BK
        if segment_BK is not None and before.segment_BK is not None:
            segment_BK = torch.where(empty_B[:, None], pad(before.segment_BK, theirs), pad(segment_BK, mine))
        slots_BKD, before_BKD = pad(self.slots_BKD, (0, 0, *mine)), pad(before.slots_BKD, (0, 0, *theirs))
        return MemoryState(
            torch.where(empty_B[:, None, None], before_BKD, slots_BKD),
            torch.where(empty_B, before.lengths_B, self.lengths_B),
            self.ratio,
            segment_BK,
        )


def joined(states: Sequence[MemoryState | None]) -> MemoryState | None:
    """The states of several rows as one, see :meth:`MemoryState.stacked`; None if no row holds anything.

    Args:
        states: Of one row each; None stands for a row that holds nothing.

    Raises:
        InputError: Their ratios differ.
    """
    held = [state for state in states if state is not None]
    if not held:
        return None
    first = held[0]
    empty = MemoryState(
        first.slots_BKD.new_zeros(1, 0, first.slots_BKD.shape[2]), first.lengths_B.new_zeros(1), first.ratio
    )
    return MemoryState.stacked([empty if state is None else state for state in states])
