"""Token ids from which a text can be had back: what exact recall begins with."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from r3mem.errors import InputError


def lossless_ids(text: str, tokenizer: PreTrainedTokenizerBase, called: str = "the tokenizer") -> list[int]:
    """Token ids of a text, checked to give the text back; none for an empty text.

    Args:
        text: The text.
        tokenizer: Makes the ids.
        called: Names the tokenizer in the error.

    Raises:
        InputError: The tokenizer loses some of the text.
    """
    if not text:
        return []
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
    back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    if back != text:
        shorter = min(len(text), len(back))
        at = next((i for i in range(shorter) if text[i] != back[i]), shorter)
        raise InputError(
            f"{called} does not give this text back (first difference at character {at}: {text[at : at + 20]!r} "
            f"became {back[at : at + 20]!r}), so it could never be recalled exactly. Pass "
            "tokenizer.decode(tokenizer(text)) if that form will do, or token ids."
        )
    return ids
