"""How likely a query is after stored memories. Shape legend: B batch (memories), N query tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from r3mem.backbone.evaluation_mode import evaluating
from r3mem.memory import Memory, MemoryState, Segments
from r3mem.model import R3Mem
from r3mem.objectives import log_likelihood
from r3mem.search import QueryLikelihood


@torch.no_grad()
def query_likelihoods(model: R3Mem, memories: Sequence[Memory], query: str, batch: int) -> list[float]:
    """``log p(query | memory)`` in nats for each memory, as `QueryLikelihood` has it for passages.

    Args:
        model: The model.
        memories: What was stored.
        query: The query.
        batch: Memories read at a time.

    Raises:
        InputError: No token of the query is left to score.
    """
    given, scored = QueryLikelihood(model, batch=batch).split(query)
    ids_N = torch.tensor(given + scored, device=model.backbone.device)
    by_length = sorted(range(len(memories)), key=lambda i: (memories[i].ratio, memories[i].n_slots))
    out = [0.0] * len(memories)
    with evaluating(model):
        for at in range(0, len(by_length), batch):
            numbers = by_length[at : at + batch]
            for group in _of_one_ratio(numbers, memories):
                state = MemoryState.stacked([model.state(memories[i], "state") for i in group])
                model.backbone.check_fits(
                    int(model.compressor.read(state).start_B.max()) + len(ids_N),
                    f"a memory and a query of {len(ids_N)} tokens", "shorten the query",
                )  # fmt: skip
                rows = Segments.whole(ids_N.expand(len(group), -1))
                found_B = log_likelihood(model.scores(rows, state), rows, len(given))
                for i, value in zip(group, found_B.tolist(), strict=True):
                    out[i] = value
    return out


def _of_one_ratio(numbers: Sequence[int], memories: Sequence[Memory]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for i in numbers:
        groups.setdefault(memories[i].ratio, []).append(i)
    return list(groups.values())
