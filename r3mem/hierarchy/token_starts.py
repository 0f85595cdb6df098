"""At which character of a text each of its tokens begins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from r3mem.errors import ConfigError, InputError
from r3mem.plain_data.text_ids import token_bytes


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
    spelled = token_bytes(ids, tokenizer)
    if spelled is not None:
        whole = b"".join(spelled)
        if whole.decode(errors="replace") == f" {text}" and spelled[0].startswith(b" "):
            # A tokenizer that begins every text with a blank of its own.
            spelled[0], whole = spelled[0][1:], whole[1:]
        if whole == text.encode():
            return _starts_of_bytes(text, spelled)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{type(tokenizer).__name__} does not say where its tokens lie in a text: hierarchies need a fast "
            "tokenizer (AutoTokenizer.from_pretrained(..., use_fast=True)), or use Flat, which does not"
        )
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, verbose=False, return_offsets_mapping=True
    )
    if list(encoded.input_ids) != list(ids):
        raise InputError("these ids are not what the tokenizer makes of this text: pass the text's own ids")
    return _starts_of_offsets(text, encoded.offset_mapping)


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
