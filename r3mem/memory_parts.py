"""Memories one after the other as one: the records of both, checked to be of one kind and to follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from r3mem.errors import InputError
from r3mem.folded import carried

if TYPE_CHECKING:
    from r3mem.memory import Memory


def check_follow(parts: Sequence[Memory]) -> None:
    """Refuse parts of one text that are not in order, or have others between them.

    Args:
        parts: The memories; where each begins at 0, they are of texts of their own.

    Raises:
        InputError: One does not begin where the one before it ends; the message says which.
    """
    if all(part.begins == 0 for part in parts):
        return
    for number, (before, part) in enumerate(pairwise(parts), 1):
        end = before.begins + before.n_tokens
        if part.begins != end:
            raise InputError(
                f"part {number} begins at token {part.begins} of its text, the part before it ends at {end}: give "
                "consecutive parts in their order. Records of any order have texts apart: recall(memory.part(i))"
            )


def side_by_side(parts: Sequence[Memory]) -> Memory:
    """The records of memories of one kind as one memory, wherever in their texts they stand.

    Args:
        parts: The memories, at least one.

    Raises:
        InputError: They were made at different ratios, precisions or by different models.
    """
    first = parts[0]
    if any(_kind(part) != _kind(first) for part in parts):
        raise InputError("these memories differ in ratio, precision or model; only like can be joined with like")
    n_slots = max(part.data_TKD.shape[1] for part in parts)

    def stack(name: str) -> Tensor:
        rows = []
        for part in parts:
            tensor: Tensor = getattr(part, name)
            fill = tensor.new_zeros(tensor.shape[0], n_slots - tensor.shape[1], *tensor.shape[2:])
            rows.append(torch.cat([tensor, fill], 1))
        return torch.cat(rows)

    made = replace(
        first,
        data_TKD=stack("data_TKD"), share_scale_TK=stack("share_scale_TK"), rest_scale_TK=stack("rest_scale_TK"),
        lengths_T=torch.cat([part.lengths_T for part in parts]),
        corrections=[packed for part in parts for packed in part.corrections],
        digests=[digest for part in parts for digest in part.digests],
        # Older memories do not say how control strings were taken; together they cannot either.
        fingerprint=min((part.fingerprint for part in parts), key=lambda told: "text" in told),
        wrong=[count for part in parts for count in part.wrong],
    )  # fmt: skip
    made.folded = carried(first.folded, first.sources, made.sources)
    return made


def _kind(part: Memory) -> tuple[object, ...]:
    width, group = part.data_TKD.shape[-1], part.scale_group
    return part.ratio, part.precision, part.share_dims, width, {**part.fingerprint, "text": ""}, group
