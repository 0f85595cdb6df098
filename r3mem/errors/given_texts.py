"""What a user gives as a text, as several, or as token ids: checked before any work begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r3mem.errors import InputError
from r3mem.errors.given_paths import given_path
from r3mem.errors.no_text import HEAD, is_pdf, refusal
from r3mem.errors.whole_numbers import is_whole

Text = str | Sequence[int]


def given_texts(given: Any, what: str = "text") -> tuple[list[Text], bool]:
    """The texts that were given, and whether it was a single one.

    Args:
        given: A string, token ids (a sequence, a tensor or an array of one dimension), or a list of either.
        what: What a text is called in errors.

    Returns:
        ``(texts, single)``; token ids are lists of ``int``.

    Raises:
        InputError: Anything else, or an empty text; the message says which.
    """
    if isinstance(given, str | range) or _is_array(given):
        return [given_text(given, f"the {what}")], True
    if not isinstance(given, list | tuple):
        raise InputError(_refusal(given, what))
    if not given:
        raise InputError(f"the {what} is empty: give at least one token, or a list of at least one {what}")
    if all(_is_number(part) for part in given):
        return [_small(given, f"the {what}")], True
    return [given_text(part, f"{what} {i} of {len(given)}") for i, part in enumerate(given)], False


def given_text(given: Any, called: str = "the text") -> Text:
    """One text that was given, as a string or as a list of ``int``.

    Args:
        given: A string, or token ids.
        called: Names it in errors.

    Raises:
        InputError: Anything else, or nothing in it.
    """
    if isinstance(given, str):
        return _filled(given, called)
    if _is_array(given) or isinstance(given, list | tuple | range):
        return _filled(_ids(given, called), called)
    raise InputError(f"{called}: {_refusal(given, 'text')}")


def given_ids(given: Any, what: str = "the text") -> list[int]:
    """Token ids that were given; they may be none.

    Args:
        given: A sequence, a tensor or an array of whole numbers.
        what: What they are called in errors.

    Raises:
        InputError: Anything else.
    """
    if not (_is_array(given) or isinstance(given, list | tuple | range)):
        raise InputError(f"{what}: token ids are a list of whole numbers, not {type(given).__name__}")
    return _ids(given, what)


def text_of_file(path: str | Path) -> str:
    """The text of a UTF-8 file, byte for byte: line ends and a byte-order mark are kept.

    ``open(path).read()`` makes ``\\n`` of ``\\r\\n`` and of ``\\r``: its text is not the file's.

    Args:
        path: The file.

    Raises:
        InputError: It cannot be read, is a picture, a PDF or otherwise no text, or a byte is not UTF-8; the message has
            its offset.
    """
    file = given_path(path, "the text")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check that it exists") from error
    if is_pdf(data):
        raise InputError(refusal(path, data[:HEAD]))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(refusal(path, data[:HEAD], data[error.start], error.start)) from error


def _filled(text: Text, called: str) -> Text:
    if not len(text):
        raise InputError(f"{called} is empty: give at least one token")
    return text


def _refusal(given: Any, what: str) -> str:
    if isinstance(given, bytes | bytearray | memoryview):
        return f"a {what} is a str, not {type(given).__name__}: decode it first, for example data.decode('utf-8')"
    if isinstance(given, Iterator):
        return f"a {type(given).__name__} is read once, and not here: give list(...) of it"
    if isinstance(given, Path):
        return "a path is not its text: give retain_file(path)"
    if isinstance(given, Mapping):
        return _no_messages(type(given).__name__, what)
    return f"a {what} is a str or a list of token ids, not {type(given).__name__}"


def _no_messages(kind: str, what: str) -> str:
    """What to do with messages of a chat that were given as something else."""
    if what == "prompt":
        return f"a prompt is a str, a list of token ids or a chat, which is a list of messages, not {kind}"
    return (
        f"a text is a str or a list of token ids, not {kind}: of messages make one string, written as you like, for "
        """example '\\n'.join(f"{m['role']}: {m['content']}" for m in messages)"""
    )


def _is_number(part: Any) -> bool:
    if isinstance(part, Tensor):
        return part.ndim == 0 and not part.is_floating_point() and part.dtype != torch.bool
    return is_whole(part)


def _is_array(given: Any) -> bool:
    return hasattr(given, "ndim") and hasattr(given, "tolist") and given.ndim > 0


def _ids(given: Any, called: str) -> list[int]:
    if _is_array(given) or isinstance(given, range):
        return _array_ids(given, called)
    odd = next((i for i, part in enumerate(given) if not _is_number(part)), None)
    if odd is not None and isinstance(given[odd], Mapping):
        raise InputError(f"{called}: {_no_messages(type(given[odd]).__name__, 'text')}")
    if odd is not None:
        raise InputError(f"{called}: token ids are whole numbers, and number {odd} is {given[odd]!r:.40}")
    return _small(given, called)


def _small(given: Any, called: str) -> list[int]:
    """Numbers as ``int``, none beyond 64 bits: no tensor holds those."""
    ids = [int(part) for part in given]
    large = next((part for part in ids if not -(1 << 63) <= part < 1 << 63), None)
    if large is not None:
        raise InputError(f"{called}: token id {large!r:.24} is outside every vocabulary; give ids of the tokenizer")
    return ids


def _array_ids(given: Any, called: str) -> list[int]:
    if isinstance(given, range):
        return _small(given, called)
    if given.ndim != 1:
        raise InputError(f"{called}: token ids in {given.ndim} dimensions; give a list of rows, without padding")
    found = given.tolist()
    if not all(_is_number(part) for part in found):
        raise InputError(f"{called}: token ids are whole numbers, not {given.dtype}")
    return [int(part) for part in found]
