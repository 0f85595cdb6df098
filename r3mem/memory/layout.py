"""What the parts of a stored memory must be for each other: a foreign or damaged file is told, and never half read.

Shape legend: T segments of one text, K virtual tokens, D width, G groups.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from r3mem.errors import FingerprintError, InputError

PARTS = {
    "data", "share_scale", "rest_scale", "lengths", "digests", "wrong", "corrections", "correction_bytes",
}  # fmt: skip
PRECISIONS = ("float32", "float16", "int8")


def check_version(found: str, newest: int, where: str) -> None:
    """Refuse a format that this version does not know; it reads all up to its own.

    Args:
        found: As the file says.
        newest: This version's own.
        where: Named in errors.

    Raises:
        FingerprintError: Of another format.
    """
    known = [str(n) for n in range(1, newest + 1)]
    if found not in known:
        raise FingerprintError(
            f"{where} is of format {found}, this version reads format {' and '.join(known)}: "
            "retain the text again, or use the version that wrote it"
        )


def check_layout(tensors: Mapping[str, Tensor], about: Mapping[str, str], where: str) -> None:
    """Refuse parts that do not make a memory.

    Args:
        tensors: Tensors by name, see `Memory.tensors`.
        about: What says how to read them.
        where: Named in errors.

    Raises:
        InputError: Says which part is missing or contradicts the others.
    """
    missing = sorted(PARTS - set(tensors))
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing; retain the text again")
    try:
        wrong = _fault(tensors, about)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        wrong = f"{type(error).__name__} {error}"
    if wrong:
        raise InputError(f"{where}: damaged, or not a memory that r3mem saved ({wrong}); retain the text again")


def _fault(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str | None:
    share_dims, ratio, group = (
        int(about["share_dims"]),
        int(about["ratio"]),
        json.loads(about.get("scale_group", "null")),
    )
    data_TKD, share_scale_TK, rest_scale_TK = tensors["data"], tensors["share_scale"], tensors["rest_scale"]
    lengths_T, sizes_T = tensors["lengths"], tensors["correction_bytes"]
    if about["precision"] not in PRECISIONS or data_TKD.dtype != getattr(torch, about["precision"]):
        return f"precision {about['precision']} of {data_TKD.dtype}"
    if data_TKD.dim() != 3 or 0 in data_TKD.shape:
        return f"slots of shape {list(data_TKD.shape)}"
    n_records, n_slots, width = data_TKD.shape
    if int(about.get("begins", "0")) < 0:
        return f"begins {about['begins']}"
    if group is not None and (type(group) is not int or group < 1):
        return f"scale_group {group}"
    groups = [] if group is None else [-(-width // group)]
    if list(share_scale_TK.shape) != [n_records, n_slots] or list(rest_scale_TK.shape) != [n_records, n_slots, *groups]:
        return f"scales of shape {list(share_scale_TK.shape)} and {list(rest_scale_TK.shape)}"
    if not (share_scale_TK.is_floating_point() and rest_scale_TK.is_floating_point()):
        return "scales that are no real numbers"
    if not 0 <= share_dims <= width or ratio < 1:
        return f"share_dims {share_dims}, ratio {ratio}"
    for name in ("lengths", "digests", "correction_bytes", "wrong"):
        n_told = 0 if name == "wrong" and not tensors[name].numel() else n_records
        if tensors[name].dtype != torch.long or list(tensors[name].shape) != [n_told]:
            return f"{name} of {tensors[name].dtype} and shape {list(tensors[name].shape)}"
    if int(lengths_T.min()) < 1 or -(-int(lengths_T.max()) // ratio) > n_slots:
        return f"{n_slots} slots for up to {int(lengths_T.max())} tokens"
    if tensors["corrections"].dim() != 1 or int(sizes_T.min()) < 0 or int(sizes_T.sum()) != len(tensors["corrections"]):
        return "corrections of another size"
    return _fault_of_names(json.loads(about["fingerprint"]))


def _fault_of_names(fingerprint: Any) -> str | None:
    if not isinstance(fingerprint, dict) or not all(isinstance(value, str) for value in fingerprint.values()):
        return "its fingerprint is no table of names"
    if "compressor" in fingerprint and not isinstance(json.loads(fingerprint["compressor"]), dict):
        return "its fingerprint names no compressor"
    return None
