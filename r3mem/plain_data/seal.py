"""Digests of what is stored, kept beside it: damage is found when it is read, and never taken for what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from r3mem.errors import InputError
from r3mem.errors.caller_warnings import warn_caller

SEAL = "digest"
RESTORE = "take an undamaged copy, or make it again"


def tensors_digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of tensors by name, bit for bit, and of the text that goes with them.

    Args:
        tensors: On any device.
        about: Plain text; an earlier digest in it does not count.
    """
    state = hashlib.sha256()
    state.update(_canonical({key: text for key, text in about.items() if key != SEAL}))
    for name, tensor in sorted(tensors.items()):
        state.update(_canonical([name, str(tensor.dtype), list(tensor.shape)]))
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data with its digest under ``digest``.

    Args:
        content: What JSON can hold.
    """
    # As it will be read: with text for keys and lists for tuples.
    read: dict[str, Any] = json.loads(json.dumps(content))
    return {**read, SEAL: _digest(read)}


def read_sealed(path: Path, kind: str) -> dict[str, Any]:
    """What is in a JSON file of :func:`sealed`, the digest still in it; one without digest is taken as it is.

    Args:
        path: The file.
        kind: What it should be, named in errors.

    Raises:
        InputError: No such file, no JSON object, or not what was written.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{kind} {path}: cannot be read ({error}): {RESTORE}") from error
    if not isinstance(content, dict):
        raise InputError(f"{kind} {path}: not a JSON object but a {type(content).__name__}: {RESTORE}")
    if SEAL in content and not is_whole(content):
        raise InputError(
            f"{kind} {path}: damaged, or changed after it was written; its content does not match its digest: {RESTORE}"
        )
    return content


def is_whole(content: Mapping[str, Any]) -> bool:
    """Whether plain data is what :func:`sealed` was given.

    Args:
        content: With its digest; without one it is not.
    """
    return bool(content.get(SEAL) == _digest(content))


def check_sealed(about: Mapping[str, Any], since: bool, where: str, more: str = "") -> None:
    """Refuse what has lost its digest; warn of what an earlier version wrote, which had none.

    Args:
        about: What was read.
        since: Whether its format has digests.
        where: Named in messages.
        more: What else the earlier format lacks.

    Raises:
        InputError: There should be one.
    """
    if SEAL in about:
        return
    if since:
        raise InputError(f"{where}: damaged, its digest is missing: {RESTORE}")
    warn_caller(
        f"{where} was written before files had digests: damage to it would not be noticed{more}; load and save it "
        "again to protect it from now on"
    )


def _digest(content: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in content.items() if key != SEAL}
    return hashlib.sha256(_canonical(kept)).hexdigest()


def _canonical(content: Any) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file directly in a folder, by name.

    Args:
        folder: The folder.
    """
    return {path.name: _file_digest(path) for path in sorted(folder.iterdir()) if path.is_file()}


def damaged_file(folder: Path, digests: Mapping[str, str]) -> str | None:
    """The first file that is missing or not what it was; None if all are.

    Args:
        folder: The folder.
        digests: What :func:`file_digests` gave.
    """
    for name, digest in digests.items():
        if not (folder / name).is_file() or _file_digest(folder / name) != digest:
            return name
    return None


def _file_digest(path: Path) -> str:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            state.update(part)
    return state.hexdigest()
