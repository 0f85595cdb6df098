"""Token ids from which a text can be had back: what exact recall begins with."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from r3mem.errors import InputError
from r3mem.plain_data.text_ids import decoded, ids_going_on, text_ids


def lossless_ids(
    text: str, tokenizer: PreTrainedTokenizerBase, called: str = "the tokenizer", before: Sequence[int] = ()
) -> list[int]:
    """Token ids of a text, checked to give the text back; none for an empty text.

    Control strings in the text are text (`r3mem.plain_data.text_ids`).

    Args:
        text: The text.
        tokenizer: Makes the ids.
        called: Names the tokenizer in the error.
        before: Ids of the text that it goes on from, the last few of them; none for a text that begins.

    Raises:
        InputError: The tokenizer loses some of the text.
    """
    if not text:
        return []
    ids = ids_going_on(text, tokenizer, before) if before else text_ids(text, tokenizer)
    back = decoded(ids, tokenizer, goes_on=bool(before))
    if back != text:
        shorter = min(len(text), len(back))
        at = next((i for i in range(shorter) if text[i] != back[i]), shorter)
        raise InputError(
            f"{called} does not give this text back (first difference at character {at}: {text[at : at + 20]!r} "
            f"became {back[at : at + 20]!r}), so it could never be recalled exactly. Pass "
            "tokenizer.decode(tokenizer(text)) if that form will do, or token ids."
        )
    return ids
