"""What recall needs beside the memory to be exact: the tokens to replace, packed into bytes, and a digest of the text.

Layout of the bytes (empty when there is nothing to correct):
```
sparse   00  count  position  gap-1  gap-1 ...   ids, w bits each     few corrections
dense    01  count                               ids, w bits each     every token of the text, where that is smaller
```
Counts, positions and gaps are varints (7 bits a byte, lowest first); w is the bits of ``vocab_size - 1``; ids are
packed lowest bit first and padded with zero bits to a whole byte.

Shape legend: N text tokens, A corrected tokens.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from r3mem.errors import InputError, RecallError

SPARSE, DENSE = 0, 1
LONGEST_VARINT = 5
_Ids = npt.NDArray[np.int64]


def pack(positions_A: Tensor, ids_A: Tensor, all_ids_N: Tensor, vocab_size: int) -> bytes:
    """Pack corrections in the smaller of the two layouts.

    Args:
        positions_A: Where a recalled token may differ, strictly rising, each below N.
        ids_A: The true ids at those positions.
        all_ids_N: The true ids of the whole text.
        vocab_size: Rows of the token table; every id is below it.

    Returns:
        The bytes; ``b""`` without corrections.

    Raises:
        InputError: Positions that do not rise or lie outside the text, ids outside the vocabulary, or ``ids_A`` that
            are not the ids of ``all_ids_N``.
    """
    width = _id_width(vocab_size)
    positions, ids, all_ids = (
        _row(t, name) for t, name in ((positions_A, "positions"), (ids_A, "ids"), (all_ids_N, "all ids"))
    )
    if len(positions) != len(ids):
        raise InputError(f"{len(positions)} positions but {len(ids)} ids: give one id a position")
    if all_ids.size and (all_ids.min() < 0 or all_ids.max() >= vocab_size):
        raise InputError(f"token ids {all_ids.min()}..{all_ids.max()} do not fit a vocabulary of {vocab_size}")
    if positions.size == 0:
        return b""
    if positions[0] < 0 or positions[-1] >= len(all_ids) or (np.diff(positions) <= 0).any():
        raise InputError(f"positions must rise strictly and lie in 0..{len(all_ids) - 1}")
    if not np.array_equal(all_ids[positions], ids):
        raise InputError("the ids given for the positions are not those of the text: pass the true ids in both")
    steps = [len(positions), int(positions[0]), *(np.diff(positions) - 1).tolist()]
    sparse = bytes([SPARSE]) + b"".join(map(_varint, steps)) + _pack_ids(ids, width)
    dense = bytes([DENSE]) + _varint(len(all_ids)) + _pack_ids(all_ids, width)
    return dense if len(dense) < len(sparse) else sparse


def unpack(packed: bytes, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Positions and true ids held in ``packed``; the dense layout gives every position.

    Args:
        packed: What ``pack`` returned.
        vocab_size: The same vocabulary size.

    Returns:
        ``positions_A`` and ``ids_A``, ``long``, on the CPU.

    Raises:
        RecallError: The bytes are truncated, too long, or cannot have come from ``pack``. A changed bit that leaves
            another valid packing is for ``digest`` to find.
    """
    _, positions, ids = _parse(packed, vocab_size)
    return torch.from_numpy(positions), torch.from_numpy(ids)


def apply(ids_N: Tensor, packed: bytes, vocab_size: int) -> Tensor:
    """Replace what was recalled wrongly.

    Args:
        ids_N: Recalled ids, ``long``. Left as they are.
        packed: What ``pack`` returned for this text.
        vocab_size: The same vocabulary size.

    Returns:
        Corrected ids, ``long``, on the device of ``ids_N``.

    Raises:
        RecallError: As for ``unpack``, or the corrections belong to a text of another length.
    """
    if ids_N.ndim != 1:
        raise InputError(f"correct one text at a time: ids must be one row, got shape {tuple(ids_N.shape)}")
    mode, positions, ids = _parse(packed, vocab_size)
    fits = len(ids) == len(ids_N) if mode == DENSE else not len(positions) or positions[-1] < len(ids_N)
    if not fits:
        raise RecallError(f"the corrections belong to a text of another length than {len(ids_N)} tokens: {_RETAIN}")
    corrected_N = ids_N.to(torch.long, copy=True)
    corrected_N[torch.from_numpy(positions).to(ids_N.device)] = torch.from_numpy(ids).to(ids_N.device)
    return corrected_N


def bits(packed: bytes) -> int:
    """Size of the corrections in bits, for reports of bits per token."""
    return 8 * len(packed)


def ids_digest(ids_N: Tensor) -> int:
    """64-bit BLAKE2b digest of token ids (their little-endian int32 bytes).

    Args:
        ids_N: Token ids of one text.

    Returns:
        A signed integer, so that it fits one ``torch.int64``.

    Raises:
        InputError: Ids that are negative or do not fit an int32, or more than one row.
    """
    ids = _row(ids_N, "ids")
    if ids.size and (ids.min() < 0 or ids.max() >= 2**31):
        raise InputError(f"token ids {ids.min()}..{ids.max()} do not fit 0..{2**31 - 1}")
    hashed = hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=8).digest()
    return int.from_bytes(hashed, "little", signed=True)


_RETAIN = "the memory is damaged or not this text's; retain the text again"


def _id_width(vocab_size: int) -> int:
    if not 1 <= vocab_size <= 2**31:
        raise InputError(f"the vocabulary size must be 1..{2**31}, got {vocab_size}")
    return max(1, (vocab_size - 1).bit_length())


def _row(tensor: Tensor, name: str) -> _Ids:
    if tensor.ndim != 1 or tensor.is_floating_point():
        raise InputError(f"{name} must be one row of integers, got shape {tuple(tensor.shape)} of {tensor.dtype}")
    row: _Ids = tensor.detach().to("cpu", torch.long).numpy()
    return row


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(packed: bytes, start: int) -> tuple[int, int]:
    """The varint at ``start`` and where the next field begins."""
    value = 0
    for i, byte in enumerate(packed[start : start + LONGEST_VARINT]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            if byte == 0 and i > 0:
                break
            return value, start + i + 1
    raise RecallError(f"corrections are cut off or malformed at byte {start}: {_RETAIN}")


def _pack_ids(ids: _Ids, width: int) -> bytes:
    id_bits = (ids[:, None] >> np.arange(width) & 1).astype(np.uint8)
    return np.packbits(id_bits, bitorder="little").tobytes()


def _unpack_ids(data: bytes, count: int, width: int, vocab_size: int) -> _Ids:
    if len(data) != -(-count * width // 8):
        raise RecallError(f"{len(data)} bytes of corrections where {-(-count * width // 8)} belong: {_RETAIN}")
    stream = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if stream[count * width :].any():
        raise RecallError(f"corrections end in bits that belong to no token: {_RETAIN}")
    ids: _Ids = stream[: count * width].reshape(count, width).astype(np.int64) @ (1 << np.arange(width, dtype=np.int64))
    if ids.max() >= vocab_size:
        raise RecallError(f"corrections name token {ids.max()} of a vocabulary of {vocab_size}: {_RETAIN}")
    return ids


def _parse(packed: bytes, vocab_size: int) -> tuple[int, _Ids, _Ids]:
    """Mode, positions and ids. Sizes are checked before anything of that size is made."""
    width = _id_width(vocab_size)
    if not packed:
        return SPARSE, np.zeros(0, np.int64), np.zeros(0, np.int64)
    mode = packed[0]
    count, at = _read_varint(packed, 1)
    if mode not in (SPARSE, DENSE) or count == 0 or count * width > 8 * len(packed):
        raise RecallError(f"these bytes are no corrections of this format: {_RETAIN}")
    if mode == DENSE:
        positions = np.arange(count, dtype=np.int64)
    else:
        steps = np.empty(count, np.int64)
        for i in range(count):
            steps[i], at = _read_varint(packed, at)
        steps[1:] += 1
        positions = np.cumsum(steps)
    return mode, positions, _unpack_ids(packed[at:], count, width, vocab_size)
