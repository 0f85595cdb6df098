"""Where each row of a continuation ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class RowEnds(StoppingCriteria):
    """All of several stopping criteria; notes after how many new tokens each row was first stopped.

    A row that was stopped goes on as padding, which its tokens alone do not show: a model may make such a token too.

    Args:
        criteria: The criteria.
        n_prompt: Tokens in front of the new ones.
    """

    def __init__(self, criteria: Sequence[Any], n_prompt: int) -> None:
        self.criteria, self.n_prompt = list(criteria), n_prompt
        self.ends: dict[int, int] = {}

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        """Which rows end here, ``B``."""
        done_B = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for criterion in self.criteria:
            done_B = done_B | torch.as_tensor(criterion(input_ids, scores, **options), device=done_B.device).bool()
        for b in done_B.nonzero().flatten().tolist():
            self.ends.setdefault(b, input_ids.shape[1] - self.n_prompt)
        return done_B


def rows_until(new_BN: Tensor, marks: Sequence[int], stops: RowEnds | None, pad: int, beams: bool) -> list[list[int]]:
    """New tokens of each row, without end mark and padding.

    Args:
        new_BN: New tokens.
        marks: Those that end an answer.
        stops: What else stopped rows, or None.
        pad: What stands behind a row that was stopped.
        beams: Whether rows are beams; those change places, so that only their padding shows where they were stopped.
    """
    rows: list[list[int]] = []
    for b, row in enumerate(new_BN.tolist()):
        stop = next((i for i, token in enumerate(row) if token in marks), len(row))
        if stops is not None and not beams:
            stop = min(stop, stops.ends.get(b, stop))
        while stops is not None and beams and stop == len(row) > 0 and row[-1] == pad:
            row, stop = row[:-1], stop - 1
        rows.append(row[:stop])
    return rows
