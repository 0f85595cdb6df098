"""What is kept of a text: memory coming out, one after the other as one, to a file and back.

Shape legend: T segments of one text, K virtual tokens, D width of what is kept of each: the backbone's, or more
(`Compressor.memory_width`), G groups of coordinates.
"""

from __future__ import annotations

import json
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r3mem.errors import InputError
from r3mem.errors.given_paths import given_path
from r3mem.errors.whole_numbers import whole_number
from r3mem.memory.folded import Folded, carried
from r3mem.memory.layout import check_layout, check_version
from r3mem.memory.states import slots_needed
from r3mem.plain_data.by_content import ByContent
from r3mem.plain_data.seal import check_sealed
from r3mem.plain_data.tensor_file import read_whole, write_whole

#: Format 1 had no digest, and did not say which adapters and weights wrote.
FORMAT = 2
UNNAMED = ", nor does it say by which adapters it was written"


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
        _check_follow(parts)
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


def _check_follow(parts: Sequence[Memory]) -> None:
    """Refuse parts of one text that are not in order, or have others between them.

    Args:
        parts: The memories; where each begins at 0, they are of texts of their own.

    Raises:
        InputError: One does not begin where the one before it ends; the message says which.
    """
    if all(part.begins == 0 for part in parts):
        return
    for number, (before, part) in enumerate(pairwise(parts), 1):
        end = before.begins + before.n_tokens
        if part.begins != end:
            raise InputError(
                f"part {number} begins at token {part.begins} of its text, the part before it ends at {end}: give "
                "consecutive parts in their order. Records of any order have texts apart: recall(memory.part(i))"
            )


def side_by_side(parts: Sequence[Memory]) -> Memory:
    """The records of memories of one kind as one memory, wherever in their texts they stand.

    Args:
        parts: The memories, at least one.

    Raises:
        InputError: They were made at different ratios, precisions or by different models.
    """
    first = parts[0]
    if any(_kind(part) != _kind(first) for part in parts):
        raise InputError("these memories differ in ratio, precision or model; only like can be joined with like")
    n_slots = max(part.data_TKD.shape[1] for part in parts)

    def stack(name: str) -> Tensor:
        rows = []
        for part in parts:
            tensor: Tensor = getattr(part, name)
            fill = tensor.new_zeros(tensor.shape[0], n_slots - tensor.shape[1], *tensor.shape[2:])
            rows.append(torch.cat([tensor, fill], 1))
        return torch.cat(rows)

    made = replace(
        first,
        data_TKD=stack("data_TKD"), share_scale_TK=stack("share_scale_TK"), rest_scale_TK=stack("rest_scale_TK"),
        lengths_T=torch.cat([part.lengths_T for part in parts]),
        corrections=[packed for part in parts for packed in part.corrections],
        digests=[digest for part in parts for digest in part.digests],
        # Older memories do not say how control strings were taken; together they cannot either.
        fingerprint=min((part.fingerprint for part in parts), key=lambda told: "text" in told),
        wrong=[count for part in parts for count in part.wrong],
    )  # fmt: skip
    made.folded = carried(first.folded, first.sources, made.sources)
    return made


def _kind(part: Memory) -> tuple[object, ...]:
    width, group = part.data_TKD.shape[-1], part.scale_group
    return part.ratio, part.precision, part.share_dims, width, {**part.fingerprint, "text": ""}, group
