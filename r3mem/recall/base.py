"""The codec of a decoder: a segment's words read off its memory, exactly or not at all (docs/method.md).

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from r3mem.backbone import Backbone
from r3mem.backbone.evaluation_mode import Switched
from r3mem.backbone.prefix import Prefix
from r3mem.errors import RecallError
from r3mem.errors.renamed import refuse_old_methods
from r3mem.memory import MemoryState, Segments, slots_needed
from r3mem.plain_data.components import Description
from r3mem.recall import corrections


@dataclass
class RecallRecord:
    """What must be kept beside a segment's virtual tokens so that its text comes back exactly.

    Attributes:
        packed: Corrections, see :mod:`r3mem.recall.corrections`.
        digest: 64-bit digest of the token ids.
        wrong: Tokens that the virtual tokens alone give wrongly.
    """

    packed: bytes
    digest: int
    wrong: int


class Codec(ABC):
    """Tokens to text stream, and memory back to tokens; a decoder makes it for the model that it is part of.

    A subclass says what is read off a memory. Corrections and the digest are the same for all: what is recalled is
    the text that was retained, or `RecallError`.

    Attributes:
        vocabulary: Rows of the token table; corrections are packed by it.
    """

    vocabulary: int

    @property
    @abstractmethod
    def ratio(self) -> int:
        """Text tokens per virtual token."""

    @abstractmethod
    def use(self, decoder: Decoder) -> None:
        """Read with this decoder from now on: the one before at another ratio."""

    def at(self, decoder: Decoder) -> Codec:
        """The same with another decoder, everything else shared.

        Args:
            decoder: The decoder at another ratio.
        """
        made = copy(self)
        if isinstance(made, nn.Module):
            made._modules = dict(made._modules)  # A copy's own, or both would have the other decoder.
        made.use(decoder)
        return made

    @abstractmethod
    def identity(self) -> tuple[Description, Mapping[str, Any]]:
        """Description and weights of all that decides which text a memory gives back; others are refused it."""

    @abstractmethod
    def stream(self, text: Segments) -> Tensor:
        """The text stream ``U_0``: what the decoder takes of a text, ``BND``, float32."""

    @abstractmethod
    def read(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> tuple[Segments, Tensor]:
        """Tokens read off a memory, without corrections.

        Args:
            memory_BKD: Virtual tokens ``V_S``.
            lengths_B: Tokens in each row.
            n_tokens: Longest row.

        Returns:
            The tokens, and ``bool BN``: where another machine could choose otherwise.
        """

    @abstractmethod
    def _compared(self, text: Segments, memory_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """``bool BN`` each: where the memory alone gives a wrong token, and which tokens are kept as corrections."""

    @abstractmethod
    def _recalled(self, memory_BKD: Tensor, lengths_B: Tensor, corrected_BN: Tensor) -> Tensor:
        """Token ids ``BN``; where ``corrected_BN`` is not negative, it stands already."""

    @torch.no_grad()
    def recall_records(self, text: Segments, memory_BKD: Tensor) -> list[RecallRecord]:
        """Recall at once from the memory as stored, and keep what differs or could differ on another machine."""
        wrong_BN, keep_BN = self._compared(text, memory_BKD)
        wrong_B = (wrong_BN & text.mask_BN).sum(1).tolist()
        ids_BN, keep_BN = text.ids_BN.cpu(), (keep_BN & text.mask_BN).cpu()
        records = []
        for b, length in enumerate(text.lengths_B.tolist()):
            row_N, positions_A = ids_BN[b, :length], keep_BN[b, :length].nonzero()[:, 0]
            packed = corrections.pack(positions_A, row_N[positions_A], row_N, self.vocabulary)
            records.append(RecallRecord(packed, corrections.ids_digest(row_N), wrong_B[b]))
        return records

    @torch.no_grad()
    def recall(self, memory_BKD: Tensor, lengths_B: Tensor, records: list[RecallRecord]) -> list[Tensor]:
        """The exact tokens of every row.

        Raises:
            RecallError: A row's tokens, corrections applied, are not the ones that were retained.
        """
        n_tokens, n_slots = int(lengths_B.max()), memory_BKD.shape[1]
        if int(lengths_B.min()) < 1 or slots_needed(n_tokens, self.ratio) > n_slots:
            raise RecallError(f"the memory is damaged: its {n_slots} slots cannot hold {lengths_B.tolist()} tokens")
        if not bool(torch.isfinite(memory_BKD).all()):
            raise RecallError("the memory is damaged: it holds NaN or infinity; retain the text again")
        corrected_BN = torch.full((len(records), n_tokens), -1)
        for b, (length, record) in enumerate(zip(lengths_B.tolist(), records, strict=True)):
            corrected_BN[b, :length] = corrections.apply(corrected_BN[b, :length], record.packed, self.vocabulary)
        memory_BKD = memory_BKD[:, : slots_needed(n_tokens, self.ratio)]
        ids_BN = self._recalled(memory_BKD, lengths_B, corrected_BN.to(memory_BKD.device)).cpu()
        rows = []
        for b, (length, record) in enumerate(zip(lengths_B.tolist(), records, strict=True)):
            row_N = ids_BN[b, :length]
            if corrections.ids_digest(row_N) != record.digest:
                raise RecallError(
                    f"segment {b}: the recalled {length} tokens do not match the digest of what was retained. "
                    f"{self.mismatch}"
                )
            rows.append(row_N)
        return rows

    @property
    def mismatch(self) -> str:
        """What it means that recalled tokens are not those that were retained, and what to do."""
        return "The memory is damaged or was changed after it was written; retain the text again."


class MemoryReader(Protocol):
    """What of a compressor a decoder may use: how the backbone reads a memory where it reconstructs the text."""

    def read_to_reconstruct(self, memory: MemoryState) -> Prefix:
        """Turn a memory into what the backbone reads in front of the text."""

    def reading(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Inside, the backbone is the one that reads memories."""

    def state_dict(self) -> dict[str, Any]:
        """Weights by name."""


class Decoder(Switched, ABC):
    """Turns text into memory and memory back into text. `ReversibleStack` is the default.

    Each constructor argument is stored in an attribute of the same name: saving and fingerprints depend on it.

    Attributes:
        ratio: Text tokens per virtual token.
        reversible: Whether text moves through it, so that there are streams to train (``backward``, ``cycle`` and
            ``residual`` of the objective).
    """

    ratio: int
    reversible: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_old_methods(cls, exclusive="project_off_share", text_side="codec")

    @abstractmethod
    def retain(self, text_BND: Tensor, memory_BKD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Move the text into the memory.

        Args:
            text_BND: Text stream, as the codec gives it.
            memory_BKD: Initial memory stream: the slots as the compressor wrote them.
            lengths_B: Tokens in each row, ``long``; 0 for an empty row.

        Returns:
            ``(residual_BND, memory_BKD)``.
        """

    @abstractmethod
    def codec(self, backbone: Backbone, reader: MemoryReader) -> Codec:
        """What reads words off this decoder's memories, exactly or not at all.

        Args:
            backbone: The model's.
            reader: The model's compressor.
        """

    @abstractmethod
    def at_ratio(self, ratio: int) -> Decoder:
        """The same decoder for another ratio.

        Raises:
            ConfigError: It cannot work at that ratio.
        """

    def project_off_share(self, slots_BKD: Tensor) -> Tensor:
        """Free the part of the slots that the words take; nothing, unless a subclass says otherwise."""
        return slots_BKD

    @property
    def share_dims(self) -> int:
        """Dimensions of a slot that carry words exactly."""
        return 0

    @property
    def rotation_DD(self) -> Tensor | None:
        """Rotation into ``[exact share | rest]``, see `Coupling.rotation_DD`; None where they stand in that order."""
        return None
