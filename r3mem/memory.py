"""Plain typed data that travels between the seams: segments going in, memory coming out.

Shape legend: B batch, N text tokens, T segments of one text, K virtual tokens, D width of what is kept of each: the
backbone's, or more (`Compressor.memory_width`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r3mem.by_content import ByContent
from r3mem.errors import InputError
from r3mem.folded import Folded, carried
from r3mem.given_paths import given_path
from r3mem.given_texts import given_ids
from r3mem.memory_layout import check_layout, check_version
from r3mem.memory_parts import check_follow, side_by_side
from r3mem.seal import check_sealed
from r3mem.tensor_file import read_whole, write_whole
from r3mem.whole_numbers import whole_number

#: Format 1 had no digest, and did not say which adapters and weights wrote.
FORMAT = 2
UNNAMED = ", nor does it say by which adapters it was written"


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
        """Rows of several states of one ratio and one segment each, with slots of zeros behind those that have fewer.

        Args:
            states: At least one.
        """
        if not states:
            raise InputError("no memory states given: stack at least one")
        if len({state.ratio for state in states}) > 1:
            raise InputError(f"states of the ratios {sorted({s.ratio for s in states})} do not stack: give one ratio")
        most = max(state.slots_BKD.shape[1] for state in states)
        slots = [torch.nn.functional.pad(s.slots_BKD, (0, 0, 0, most - s.slots_BKD.shape[1])) for s in states]
        return cls(torch.cat(slots), torch.cat([s.lengths_B for s in states]), states[0].ratio)

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


@dataclass(eq=False, repr=False)
class Memory(ByContent):
    """What is kept of one text: a record of each of its segments, as stored, and what proves an exact recall.

    The last record is also the state that the next segment reads. In bytes a memory is larger than its text; what
    virtual tokens save is positions in the model's context.

    Attributes:
        data_TKD: Stored coordinates of every slot, in ``precision``.
        share_scale_TK: Unit of each slot's exact share.
        rest_scale_TK: Unit of the rest of each slot; ``TKG`` where groups of coordinates have units of their own.
        precision: ``float32``, ``float16`` or ``int8``.
        share_dims: Coordinates that belong to the exact share.
        lengths_T: Text tokens of each segment.
        ratio: Text tokens per virtual token.
        corrections: Packed corrections of each segment.
        digests: signed 64-bit digest of each segment's token ids.
        fingerprint: Names of what wrote the memory: ``backbone``, ``stack``, ``prior``, ``compressor`` (its settings),
            ``adapters`` and ``weights`` (the compressor's); and ``text``: ``data`` where control strings of a text were
            text. The first three decide whether it can be recalled.
        wrong: Tokens of each segment that the slots alone give wrongly, before corrections.
        scale_group: Coordinates of such a group; None where the rest has one unit.
        begins: Tokens of the text that stand before the first record.
        folded: The state after the first records, so that it is not made anew; never stored or copied.
    """

    data_TKD: Tensor
    share_scale_TK: Tensor
    rest_scale_TK: Tensor
    precision: str
    share_dims: int
    lengths_T: Tensor
    ratio: int
    corrections: list[bytes] = field(repr=False)
    digests: list[int] = field(repr=False)
    fingerprint: dict[str, str] = field(default_factory=dict)
    wrong: list[int] = field(default_factory=list, repr=False)
    scale_group: int | None = None
    begins: int = 0
    folded: Folded | None = field(default=None, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "folded": None}

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """What a state is made of."""
        return self.data_TKD, self.share_scale_TK, self.rest_scale_TK, self.lengths_T

    def __repr__(self) -> str:
        held = f"{self.n_tokens:,} tokens in {self.n_slots:,} virtual tokens, {len(self.digests):,} segments"
        return f"Memory({held}, ratio {self.ratio}, {self.precision}, {self.nbytes:,} bytes)"

    @property
    def n_tokens(self) -> int:
        """Text tokens that the memory holds."""
        return int(self.lengths_T.sum())

    @property
    def n_slots(self) -> int:
        """Virtual tokens in use: positions that reading every record takes."""
        return sum(slots_needed(n, self.ratio) for n in self.lengths_T.tolist())

    @property
    def nbytes(self) -> int:
        """Bytes of slots, scales, corrections and digests; padding slots are not counted."""
        width = self.data_TKD.shape[-1]
        scales = 1 + (self.rest_scale_TK.shape[-1] if self.scale_group is not None else 1)
        slot_bytes = width * self.data_TKD.element_size() + scales * self.rest_scale_TK.element_size()
        return self.n_slots * slot_bytes + self.correction_bits // 8 + 8 * len(self.digests)

    @property
    def correction_bits(self) -> int:
        """Bits of all corrections."""
        return sum(8 * len(packed) for packed in self.corrections)

    @classmethod
    def join(cls, parts: Sequence[Memory]) -> Memory:
        """One memory of consecutive parts of a text, or of several texts one after the other.

        Texts that were retained apart all begin at 0 and are joined in any order. What is recalled is what their tokens
        spell together: tokenizers that begin every text with a blank put one between them. Where the join must be exact
        go on with ``retain(text, memory)``. Memories of format 1 all begin at 0, whatever they are parts of.

        Args:
            parts: The memories, in their order.

        Raises:
            InputError: The parts were made at different ratios, precisions or by different models, or do not follow
                each other.
        """
        if not isinstance(parts, list | tuple):
            raise InputError(f"memories to join are a list of Memory, not {type(parts).__name__}: give list(...) of it")
        if not parts:
            raise InputError("no memories to join: give at least one")
        odd = next((part for part in parts if not isinstance(part, Memory)), None)
        if odd is not None:
            raise InputError(f"{type(odd).__name__} is not a Memory: only memories of texts are joined")
        check_follow(parts)
        return side_by_side(parts)

    def fault(self) -> str | None:
        """Where what belongs to a record is not there for every one; None if nowhere."""
        held = len(self.data_TKD)
        counts: dict[str, Sized] = {"lengths": self.lengths_T, "digests": self.digests, "corrections": self.corrections}
        odd = next((name for name, each in counts.items() if len(each) != held), None)
        return None if odd is None else f"it has {held} records and {len(counts[odd])} {odd}"

    def part(self, first: int, count: int = 1) -> Memory:
        """Some consecutive records, without the padding that only others need.

        Args:
            first: The first record, from 0; negative counts from the end.
            count: How many.

        Raises:
            InputError: There are no such records.
        """
        held = len(self.digests)
        start = whole_number(first, "first") + (held if first < 0 else 0)
        if not 0 <= start < start + whole_number(count, "count") <= held:
            raise InputError(
                f"{count} records from number {first} on are not there: this memory has {held}, 0 to {held - 1}"
            )
        first = start
        rows = slice(first, first + count)
        lengths_T = self.lengths_T[rows]
        n_slots = slots_needed(int(lengths_T.max()), self.ratio)
        made = Memory(
            self.data_TKD[rows, :n_slots], self.share_scale_TK[rows, :n_slots], self.rest_scale_TK[rows, :n_slots],
            self.precision, self.share_dims, lengths_T, self.ratio, self.corrections[rows], self.digests[rows],
            self.fingerprint, self.wrong[rows], self.scale_group, self.begins + int(self.lengths_T[:first].sum()),
        )  # fmt: skip
        if first == 0 and self.folded is not None and self.folded.count <= count:
            made.folded = carried(self.folded, self.sources, made.sources)
        return made

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What is written to disk: tensors by name, and what says how to read them."""
        packed = b"".join(self.corrections)
        tensors = {
            "data": self.data_TKD.cpu().contiguous(),
            "share_scale": self.share_scale_TK.cpu().contiguous(),
            "rest_scale": self.rest_scale_TK.cpu().contiguous(),
            "lengths": self.lengths_T.cpu(),
            "digests": torch.tensor(self.digests, dtype=torch.long),
            "wrong": torch.tensor(self.wrong, dtype=torch.long),
            "corrections": torch.frombuffer(bytearray(packed), dtype=torch.uint8) if packed else torch.zeros(0),
            "correction_bytes": torch.tensor([len(c) for c in self.corrections], dtype=torch.long),
        }
        about = {
            "format": str(FORMAT), "precision": self.precision, "share_dims": str(self.share_dims),
            "ratio": str(self.ratio), "fingerprint": json.dumps(self.fingerprint),
            "scale_group": json.dumps(self.scale_group), "begins": str(self.begins),
        }  # fmt: skip
        return tensors, about

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor], about: dict[str, str], where: str) -> Memory:
        """A memory of what :meth:`tensors` gave.

        Args:
            tensors: Tensors by name.
            about: What says how to read them.
            where: Named in errors.

        Raises:
            InputError: Not the parts of a memory.
            FingerprintError: Of another format version.
        """
        if "tree_format" in about:
            raise InputError(f"memory {where}: not a memory of a plain text but of a tree; use TreeMemory.load")
        if "format" not in about or "precision" not in about:
            raise InputError(f"memory {where}: a safetensors file, but not a memory that r3mem saved")
        check_version(about["format"], FORMAT, f"memory {where}")
        check_layout(tensors, about, f"memory {where}")
        packed = tensors["corrections"].to(torch.uint8).numpy().tobytes()
        pieces, at = [], 0
        for size in tensors["correction_bytes"].tolist():
            pieces.append(packed[at : at + size])
            at += size
        return cls(
            tensors["data"], tensors["share_scale"], tensors["rest_scale"], about["precision"],
            int(about["share_dims"]), tensors["lengths"], int(about["ratio"]), pieces, tensors["digests"].tolist(),
            json.loads(about["fingerprint"]), tensors["wrong"].tolist(), json.loads(about.get("scale_group", "null")),
            int(about.get("begins", "0")),
        )  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Write to a ``.safetensors`` file. The file appears whole or not at all.

        Raises:
            InputError: The disk is full, or nothing may be written there.
        """
        write_whole(*self.tensors(), given_path(path, "the memory"))

    @classmethod
    def load(cls, path: str | Path) -> Memory:
        """Read what :meth:`save` wrote.

        Warns where the file is of a format without digest.

        Raises:
            InputError: No such file, not a memory, or not as it was written.
            FingerprintError: The file is of another format version.
        """
        tensors, about = read_whole(given_path(path, "the memory"), "memory")
        memory = cls.of_tensors(tensors, about, str(path))
        check_sealed(about, about["format"] != "1", f"memory {path}", UNNAMED)
        return memory
