"""Text as data on its way to token ids and back: no string in it becomes a control token, and its parts join again.

A *control token* is one that a template or a trainer places, such as ``<|im_end|>``. Its string in a text is text: it
is spelled in ordinary tokens. A memory that holds control ids (of token ids that a user gave) is decoded as ever.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from r3mem.errors import InputError

# Tokens of what stands before that decide how the next text joins it.
TAIL = 16
# Stands in front of a text that goes on from another. Tokenizers join hardly anything over a line's end.
ANCHORS = ("\n", ".", "a")
# A piece that stands for one byte, where a vocabulary has no character for it.
SPARE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Id and string of every control token: the special ones, and added ones that are written as markup.

    ``<tool_call>`` of some chat models is added and not marked as special.
    """
    names = dict(zip(tokenizer.all_special_ids, map(str, tokenizer.all_special_tokens), strict=True))
    for number, token in tokenizer.added_tokens_decoder.items():
        if token.special or re.fullmatch(r"[<\[]\S+[>\]]", token.content):
            names[number] = token.content
    return {number: name for number, name in names.items() if name}


def check_characters(text: str) -> None:
    """Refuse a text that no UTF-8 file can hold.

    Raises:
        InputError: Half a surrogate pair; the message has its place.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text holds half a surrogate pair ({text[error.start]!a} at character {error.start}): decode its "
            "source again, for example json.loads on the whole record"
        ) from error


def text_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a text, none of them a control token.

    Args:
        text: The text; may be empty.
        tokenizer: Makes the ids.

    Raises:
        InputError: Half a surrogate pair, or a control string that the tokenizer cannot spell otherwise.
    """
    return ids_of_texts([text], tokenizer)[0]


def ids_of_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """:func:`text_ids` of several texts at once.

    Args:
        texts: The texts.
        tokenizer: Makes the ids.
    """
    for text in texts:
        check_characters(text)
    if not texts:
        return []
    rows = _plain_ids(texts, tokenizer)
    controls = control_tokens(tokenizer)
    return [
        _in_pieces(text, tokenizer, controls, []) if _commands(text, ids, controls) else ids
        for text, ids in zip(texts, rows, strict=True)
    ]


def ids_going_on(text: str, tokenizer: PreTrainedTokenizerBase, before: Sequence[int]) -> list[int]:
    """Token ids of a text that stands behind others: decoded together, nothing comes between them.

    Tokenizers with a rule of leading spaces begin every text with a blank. Here the text is tokenised behind an anchor
    where that is so.

    Args:
        text: The text.
        tokenizer: Makes the ids.
        before: Ids of what stands in front; the last few are enough.

    Raises:
        InputError: The tokenizer cannot go on from there without a change.
    """
    check_characters(text)
    if joins(tokenizer):
        return text_ids(text, tokenizer)
    return _in_pieces(text, tokenizer, control_tokens(tokenizer), list(before))


def decoded(
    ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, goes_on: bool = False, skip_control: bool = False
) -> str:
    """The text that token ids spell.

    Args:
        ids: The ids.
        tokenizer: What made them.
        goes_on: Whether other tokens stand in front of them, so that a leading blank is theirs.
        skip_control: Whether control tokens are left out.
    """
    if not goes_on or joins(tokenizer):
        return _decode(ids, tokenizer, skip_control)
    # A letter rather than a line's end, which may be a spare byte and swallow those that follow.
    for anchor in reversed(ANCHORS):
        front = _plain_ids([anchor], tokenizer)[0]
        if _decode(front, tokenizer) == anchor:
            return _decode([*front, *ids], tokenizer, skip_control).removeprefix(anchor)
    return _decode(ids, tokenizer, skip_control)


def joins(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether texts that were tokenised apart decode to their join, as those of byte-level tokenizers do."""
    first, second = _plain_ids(["a", "b"], tokenizer)
    return _decode(first + second, tokenizer) == "ab"


def token_bytes(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[bytes] | None:
    """UTF-8 bytes of each token, as it stands behind others; None where the tokenizer's pieces do not say.

    Args:
        ids: The ids.
        tokenizer: What made them, byte-level (``Ġa``) or of pieces with spare tokens for bytes (``▁a``, ``<0x0A>``).
    """
    added = {number: piece.encode() for piece, number in tokenizer.get_added_vocab().items()}
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    for spell in (_byte_level, _of_piece):
        try:
            spelled = [added[i] if i in added else spell(piece) for i, piece in zip(ids, pieces, strict=True)]
        except KeyError:
            continue
        # Spare bytes that make no whole character decode to nothing that could be compared.
        whole = [at for at, piece in enumerate(pieces) if spell is _byte_level or not SPARE.fullmatch(piece)]
        told = decoded([ids[at] for at in whole], tokenizer, goes_on=True)
        own = b"".join(spelled[at] for at in whole).decode(errors="replace")
        if own.replace("\ufffd", "") == told.replace("\ufffd", ""):
            return spelled
    return None


def text_bytes(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, goes_on: bool = False) -> bytes | None:
    """UTF-8 bytes that token ids spell as a text; None where the tokenizer's pieces do not say.

    Args:
        ids: The ids.
        tokenizer: What made them.
        goes_on: Whether other tokens stand in front of them. A text that begins is without the blank that tokenizers
            with a rule of leading spaces put in front of it.
    """
    spelled = token_bytes(ids, tokenizer)
    if spelled is None:
        return None
    data = b"".join(spelled)
    if goes_on:
        return data
    text = decoded(ids, tokenizer)
    put_in_front = _blanks(data.decode(errors="replace")) - _blanks(text)
    return data[max(0, put_in_front) :]


def _blanks(text: str) -> int:
    return len(text) - len(text.lstrip(" "))


def _plain_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    encoded = tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False,
        return_attention_mask=False, return_token_type_ids=False,
    )  # fmt: skip
    return [list(ids) for ids in encoded["input_ids"]]


def _decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, skip_control: bool = False) -> str:
    options: dict[str, Any] = {"skip_special_tokens": skip_control, "clean_up_tokenization_spaces": False}
    return str(tokenizer.decode(list(ids), **options)) if len(ids) else ""


def _behind_anchors(text: str, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Ids of a text behind each anchor, without the anchor's own."""
    found = []
    for anchor in ANCHORS:
        front, whole = _plain_ids([anchor, anchor + text], tokenizer)
        if whole[: len(front)] == front:
            found.append(whole[len(front) :])
    return found


def _commands(text: str, ids: Sequence[int], controls: dict[int, str]) -> bool:
    """Whether strings of a text became control tokens; the one for unknown pieces may stand for something else."""
    return any(controls[i] in text for i in controls.keys() & set(ids))


def _in_pieces(
    text: str, tokenizer: PreTrainedTokenizerBase, controls: dict[int, str], before: Sequence[int]
) -> list[int]:
    """Ids of a text that joins what stands before it; it is cut inside its control strings where nothing else helps."""
    names = "|".join(re.escape(name) for name in sorted(controls.values(), key=len, reverse=True))
    cuts = [match.start() + 1 for match in re.finditer(names, text)] if names else []
    for borders in ([0, len(text)], [0, *cuts, len(text)]):
        ids: list[int] = []
        for start, end in pairwise(borders):
            found = _joining(text[start:end], tokenizer, controls, [*before, *ids])
            if found is None:
                break
            ids += found
        else:
            return ids
    why = f"spell the control string at character {cuts[0] - 1} as text" if cuts else "go on from what stands before it"
    raise InputError(
        f"{type(tokenizer).__name__} cannot give {text[:20]!r} back as it is: it cannot {why}. Give both as one text, "
        "or take the control string out"
    )


def _joining(
    text: str, tokenizer: PreTrainedTokenizerBase, controls: dict[int, str], before: Sequence[int]
) -> list[int] | None:
    """Ids of a text that decode behind others as the text and nothing else, none a control token; None if none do."""
    tail = list(before)[-TAIL:]
    said = _decode(tail, tokenizer)
    options: list[list[int]] = _plain_ids([text], tokenizer)
    for ids in options + (_behind_anchors(text, tokenizer) if tail else []):
        joined = not tail or _decode([*tail, *ids], tokenizer) == said + text
        if joined and not _commands(text, ids, controls):
            return ids
    return None


@cache
def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE, as GPT-2 chose them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _byte_level(piece: str) -> bytes:
    return bytes(_byte_alphabet()[char] for char in piece)


def _of_piece(piece: str) -> bytes:
    spare = SPARE.fullmatch(piece)
    return bytes([int(spare[1], 16)]) if spare else piece.replace("\u2581", " ").encode()
