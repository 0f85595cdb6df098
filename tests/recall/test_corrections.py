"""Corrections: exact round trips, the smaller layout, and damaged bytes that are refused."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from r3mem.errors import InputError, RecallError
from r3mem.recall.corrections import DENSE, SPARSE, apply, bits, ids_digest, pack, unpack

vocabularies = st.one_of(st.sampled_from([1, 2, 3, 128, 129, 256, 49_152, 151_936, 300_000]), st.integers(1, 300_000))


@st.composite
def texts(draw: st.DrawFn, min_size: int = 0) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids, the positions to correct (from none to all, so both layouts appear) and the vocabulary size."""
    vocab = draw(vocabularies)
    n = draw(st.integers(min_size, 400))
    seed = draw(st.integers(0, 2**31))
    share = draw(st.sampled_from([0.0, 0.01, 0.1, 0.4, 0.6, 0.7, 0.8, 0.95, 1.0]))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocab, (n,), generator=generator)
    positions = (torch.rand(n, generator=generator) < share).nonzero().flatten()
    return ids, positions, vocab


def long(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.long)


@settings(max_examples=150, deadline=None)
@given(texts())
def test_apply_restores_the_text(text: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    ids, positions, vocab = text
    packed = pack(positions, ids[positions], ids, vocab)
    recalled = ids.clone()
    recalled[positions] = (recalled[positions] + 1) % vocab
    before = recalled.clone()
    assert torch.equal(apply(recalled, packed, vocab), ids)
    assert torch.equal(recalled, before)
    assert bits(packed) == 8 * len(packed)
    assert (packed == b"") == (len(positions) == 0)
    back_positions, back_ids = unpack(packed, vocab)
    assert torch.equal(ids[back_positions], back_ids)
    assert packed[:1] == bytes([DENSE]) or torch.equal(back_positions, positions)


@settings(max_examples=60, deadline=None)
@given(texts(min_size=1))
def test_no_layout_is_larger_than_all_ids(text: tuple[torch.Tensor, torch.Tensor, int]) -> None:
    ids, positions, vocab = text
    width = max(1, (vocab - 1).bit_length())
    assert len(pack(positions, ids[positions], ids, vocab)) <= 1 + 2 + -(-len(ids) * width // 8)


@settings(max_examples=100, deadline=None)
@given(texts(min_size=1), st.data())
def test_damage_is_refused_or_seen_by_the_digest(
    text: tuple[torch.Tensor, torch.Tensor, int], data: st.DataObject
) -> None:
    ids, positions, vocab = text
    packed = pack(positions, ids[positions], ids, vocab)
    recalled = ids.clone()
    recalled[positions] = (recalled[positions] + 1) % vocab
    if not packed:
        return
    cut = data.draw(st.integers(1, len(packed) - 1))
    for damaged in (packed[:cut], packed + b"\0", packed + b"\x01"):
        with pytest.raises(RecallError):
            unpack(damaged, vocab)
    flipped = bytearray(packed)
    flipped[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        result = apply(recalled, bytes(flipped), vocab)
    except RecallError:
        return
    assert vocab == 1 or ids_digest(result) != ids_digest(ids)


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(1, 300_000))
def test_arbitrary_bytes_are_refused_or_canonical(garbage: bytes, vocab: int) -> None:
    try:
        positions, ids = unpack(garbage, vocab)
    except RecallError:
        return
    assert (positions.diff() > 0).all()
    assert int(ids.max()) < vocab
    if garbage[0] == DENSE:
        assert len(positions) == len(ids) == int(positions[-1]) + 1


def test_layouts_byte_by_byte() -> None:
    ids = torch.arange(1000) % 300
    # 9 bits an id; positions 3 and 203 with ids 3 and 203; gap - 1 = 199 = 0xC7 0x01 as a varint.
    value = 3 | 203 << 9
    assert pack(long(3, 203), long(3, 203), ids, 300) == bytes([SPARSE, 2, 3, 0xC7, 0x01]) + value.to_bytes(3, "little")
    assert pack(long(0, 1, 2), long(0, 1, 2), ids[:3], 300) == bytes([DENSE, 3]) + (1 << 9 | 2 << 18).to_bytes(
        4, "little"
    )


def test_only_one_spelling_of_the_same_corrections_is_read() -> None:
    assert [t.tolist() for t in unpack(bytes([SPARSE, 1, 5, 3]), 4)] == [[5], [3]]
    for spelling in ([SPARSE, 0x81, 0x00, 5, 3], [SPARSE, 1, 0x85, 0x00, 3], [SPARSE, 1, 5, 3 | 4]):
        with pytest.raises(RecallError):
            unpack(bytes(spelling), 4)


def test_dense_takes_over_exactly_where_it_is_smaller() -> None:
    ids = torch.arange(100) + 100
    sizes, modes = [], []
    for count in range(1, 101):
        positions = torch.arange(count)
        packed = pack(positions, ids[positions], ids, 256)
        sizes.append(len(packed))
        modes.append(packed[0])
    dense_size = 2 + 100
    border = next(c for c in range(1, 101) if 2 + 2 * c > dense_size)
    assert modes == [SPARSE] * (border - 1) + [DENSE] * (101 - border)
    assert sizes == [min(2 + 2 * c, dense_size) for c in range(1, 101)]


def test_nothing_to_correct() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert pack(none, none, long(5, 6), 10) == b""
    assert pack(none, none, none, 10) == b""
    assert apply(long(5, 6), b"", 10).tolist() == [5, 6]
    assert [len(t) for t in unpack(b"", 10)] == [0, 0]


def test_corrections_of_another_length_are_refused() -> None:
    ids = torch.arange(50)
    late = pack(long(40), long(40), ids, 64)
    every = pack(torch.arange(50), ids, ids, 64)
    assert every[0] == DENSE
    for packed, wrong in ((late, 40), (every, 49), (every, 51)):
        with pytest.raises(RecallError, match="another length"):
            apply(ids.repeat(2)[:wrong], packed, 64)


def test_a_smaller_vocabulary_is_noticed() -> None:
    packed = pack(long(0), long(63), torch.full((20,), 63), 64)
    with pytest.raises(RecallError, match="token 63 of a vocabulary of 60"):
        unpack(packed, 60)


@pytest.mark.parametrize("count", [b"\xff\xff\xff\xff\x7f", b"\xff\xff\xff\xff\xff\x01", b"\x80\x00", b"\x00"])
@pytest.mark.parametrize("mode", [SPARSE, DENSE, 2])
def test_absurd_counts_are_refused_at_once(mode: int, count: bytes) -> None:
    with pytest.raises(RecallError):
        unpack(bytes([mode]) + count + b"\x01\x01\x01", 2)


@pytest.mark.parametrize(
    ("positions", "ids", "message"),
    [
        (long(1, 1), long(11, 11), "rise strictly"),
        (long(2, 1), long(12, 11), "rise strictly"),
        (long(-1), long(13), "rise strictly"),
        (long(4), long(13), "rise strictly"),
        (long(1), long(12), "not those of the text"),
        (long(1, 2), long(11), "2 positions but 1 ids"),
        (long(1)[None], long(11), "positions must be one row"),
        (long(1), torch.tensor([11.0]), "ids must be one row of integers"),
    ],
)
def test_inconsistent_corrections_are_refused(positions: torch.Tensor, ids: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pack(positions, ids, long(10, 11, 12, 13), 20)


def test_ids_outside_the_vocabulary_are_refused() -> None:
    for ids in (long(3, 20), long(-1, 3)):
        with pytest.raises(InputError, match="vocabulary of 20"):
            pack(long(0), ids[:1], ids, 20)
    with pytest.raises(InputError, match="vocabulary size"):
        pack(long(0), long(0), long(0), 0)


def test_digest_is_blake2b_of_int32_and_fits_a_tensor() -> None:
    ids = long(1, 2, 300_000)
    raw = b"".join(i.to_bytes(4, "little") for i in ids.tolist())
    expected = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little", signed=True)
    assert ids_digest(ids) == expected == ids_digest(ids.int())
    assert ids_digest(ids) != ids_digest(long(2, 1, 300_000))
    assert ids_digest(long()) != ids_digest(long(0))
    digests = [ids_digest(long(i)) for i in range(64)]
    assert torch.tensor(digests).tolist() == digests
    assert min(digests) < 0 < max(digests)
    with pytest.raises(InputError, match="do not fit"):
        ids_digest(long(2**31))
