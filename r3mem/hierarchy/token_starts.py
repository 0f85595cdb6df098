"""At which character of a text each of its tokens begins."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from r3mem.errors import ConfigError, InputError


def token_starts(text: str, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], frozenset[int]]:
    """First character of every token, and the tokens that begin inside a character.

    A token that begins inside a character (one of the later bytes of 漢) has the start of that character. White space
    that a tokenizer counts to no token belongs to the token after it.

    Args:
        text: The text.
        ids: Its token ids.
        tokenizer: What made them.

    Raises:
        ConfigError: The tokenizer cannot say where its tokens lie.
        InputError: What it says of this text contradicts itself.
    """
    spelled = _bytes_of(ids, tokenizer)
    if spelled is not None and b"".join(spelled) == text.encode():
        return _starts_of_bytes(text, spelled)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{type(tokenizer).__name__} does not say where its tokens lie in a text: hierarchies need a fast "
            "tokenizer (AutoTokenizer.from_pretrained(..., use_fast=True)), or use Flat, which does not"
        )
    encoded = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    if list(encoded.input_ids) != list(ids):
        raise InputError("these ids are not what the tokenizer makes of this text: pass the text's own ids")
    return _starts_of_offsets(text, encoded.offset_mapping)


@cache
def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE, as GPT-2 chose them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _bytes_of(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[bytes] | None:
    """The bytes of each token of a byte-level tokenizer; None where a token is not spelled in its alphabet."""
    alphabet = _byte_alphabet()
    added = {number: piece.encode() for piece, number in tokenizer.get_added_vocab().items()}
    spelled = []
    for number, piece in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
        if number in added:
            spelled.append(added[number])
            continue
        try:
            spelled.append(bytes(alphabet[char] for char in piece))
        except KeyError:
            return None
    return spelled


def _starts_of_bytes(text: str, spelled: Sequence[bytes]) -> tuple[list[int], frozenset[int]]:
    """Exact: the tokens' bytes are the text's."""
    # Which character each byte is of; a byte that begins none has the top bits 10.
    char_of_byte = list(accumulate((byte & 0xC0 != 0x80) for byte in text.encode()))
    starts, inside, at = [], [], 0
    for i, piece in enumerate(spelled):
        starts.append(char_of_byte[at] - 1 if at < len(char_of_byte) else len(text))
        if piece and piece[0] & 0xC0 == 0x80:
            inside.append(i)
        at += len(piece)
    return starts, frozenset(inside)


def _starts_of_offsets(text: str, offsets: Sequence[tuple[int, int]]) -> tuple[list[int], frozenset[int]]:
    """From what a fast tokenizer reports; some leave white space in front of a token out, some do not."""
    starts: list[int] = []
    inside, covered = [], 0
    for i, (first, last) in enumerate(offsets):
        if not 0 <= first <= last <= len(text):
            raise InputError(f"the tokenizer places token {i} at characters {first} to {last} of {len(text)}")
        if i and first < covered:
            inside.append(i)
            starts.append(max(first, starts[-1]))
        else:
            starts.append(covered)
        covered = max(covered, last)
    return starts, frozenset(inside)
