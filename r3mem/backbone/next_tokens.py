"""What a pass says of the tokens that come next, its frozen head not applied yet.

Logits over a whole vocabulary are the largest tensor of a training step, and most of the time of its loss. Likelihoods
need them for a few tokens at a time only, and a frozen head needs no gradient: so they are made, used and forgotten
chunk by chunk, and what is kept is the gradient of the states, as wide as the states.

torch has `torch.nn.functional.linear_cross_entropy` since 2.13. On a CPU it took five times as long as plain logits.

Shape legend: M tokens that count, C those of a chunk, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast, overload

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy, pad

from r3mem.plain_data.by_content import ByContent

#: Logits of one chunk: on a CPU they should stay in the cache, on a GPU products should be large.
CHUNK_CPU, CHUNK_GPU = 1 << 23, 1 << 27


@dataclass(eq=False, repr=False)
class NextTokens(ByContent):
    """States behind the final norm, and the head that makes logits of them.

    Attributes:
        states: States ``...D``.
        head: A frozen linear layer without bias, behind which nothing comes.
    """

    states: Tensor
    head: nn.Linear

    @cached_property
    def logits(self) -> Tensor:
        """Logits ``...V`` of all states, in the head's precision; with a gradient where the states have one."""
        with (
            torch.set_grad_enabled(self.states.requires_grad),
            torch.autocast(self.states.device.type, enabled=False),
        ):
            return cast(Tensor, self.head(self.states.to(self.head.weight.dtype)))


#: What is known of the next tokens: logits, or what makes them.
Scores = Tensor | NextTokens


@overload
def logits_of(scores: Scores) -> Tensor: ...
@overload
def logits_of(scores: None) -> None: ...
def logits_of(scores: Scores | None) -> Tensor | None:
    """Logits of scores; None of None."""
    return scores.logits if isinstance(scores, NextTokens) else scores


def nats(scores: Scores, targets_BN: Tensor) -> Tensor:
    """Negative log-probability ``BN`` of every next token, N one less than in scores; 0 where a target is below 0."""
    counted_BN = targets_BN >= 0
    nats_M = counted_nats(scores, pad(counted_BN, (0, 1)), targets_BN[counted_BN])
    return torch.zeros_like(targets_BN, dtype=nats_M.dtype).masked_scatter(counted_BN, nats_M)


def counted_nats(scores: Scores, counted: Tensor, targets_M: Tensor) -> Tensor:
    """Negative log-probability ``M`` of the tokens that count, float32.

    Over a whole vocabulary, padding and given words would cost as much as the others: they are left out first.
    """
    if isinstance(scores, NextTokens):
        return token_nats(scores.states[counted], scores.head.weight, targets_M)
    return cross_entropy(scores[counted].float(), targets_M, reduction="none")


def token_nats(states_MD: Tensor, weight_VD: Tensor, targets_M: Tensor) -> Tensor:
    """Negative log-probability of each token, in nats.

    Args:
        states_MD: States behind the final norm, one in front of each token.
        weight_VD: Weight of the head; it gets no gradient.
        targets_M: The tokens, all in the vocabulary.

    Returns:
        ``M`` in float32.
    """
    return cast(Tensor, _TokenNats.apply(states_MD, weight_VD, targets_M))  # type: ignore[no-untyped-call]


def divergences(states_MD: Tensor, teacher_MD: Tensor, weight_VD: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each next-token distribution from a teacher's by the same head, in nats.

    Args:
        states_MD: The student's states behind the final norm.
        teacher_MD: The teacher's; they get no gradient.
        weight_VD: Weight of the head; it gets no gradient.

    Returns:
        ``M`` in float32.
    """
    return cast(Tensor, _Divergences.apply(states_MD, teacher_MD, weight_VD))  # type: ignore[no-untyped-call]


class _Chunked(torch.autograd.Function):
    """Keeps the gradient of the states that a forward pass has made, and scales it in the backward pass."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, nats_M: Tensor) -> tuple[Tensor | None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        (gradient_MD,) = ctx.saved_tensors
        return (gradient_MD * nats_M[:, None]).to(gradient_MD.dtype), None, None


class _TokenNats(_Chunked):
    @staticmethod
    def forward(ctx: Any, states_MD: Tensor, weight_VD: Tensor, targets_M: Tensor) -> Tensor:
        nats_M = states_MD.new_empty(len(states_MD), dtype=torch.float32)
        gradient_MD = torch.empty_like(states_MD) if ctx.needs_input_grad[0] else None
        with torch.autocast(states_MD.device.type, enabled=False):
            for rows, logits_CV, made_CV in _chunks(states_MD, weight_VD):
                target_C1 = targets_M[rows, None]
                right_C1, highest_C1 = logits_CV.gather(1, target_C1), logits_CV.amax(1, keepdim=True)
                # In place: the softmax is one pass, where logsumexp would be three more.
                shares_CV = torch.softmax(logits_CV, 1, out=logits_CV)
                # The largest share is exp(highest - logsumexp), at least 1 / V.
                total_C1 = highest_C1 - shares_CV.amax(1, keepdim=True).log()
                nats_M[rows] = (total_C1 - right_C1)[:, 0]
                if gradient_MD is not None:
                    shares_CV.scatter_add_(1, target_C1, shares_CV.new_full(target_C1.shape, -1))
                    gradient_MD[rows] = made_CV.copy_(shares_CV) @ weight_VD
        if gradient_MD is not None:
            ctx.save_for_backward(gradient_MD)
        return nats_M


class _Divergences(_Chunked):
    @staticmethod
    def forward(ctx: Any, states_MD: Tensor, teacher_MD: Tensor, weight_VD: Tensor) -> Tensor:
        nats_M = states_MD.new_empty(len(states_MD), dtype=torch.float32)
        gradient_MD = torch.empty_like(states_MD) if ctx.needs_input_grad[0] else None
        with torch.autocast(states_MD.device.type, enabled=False):
            both = zip(_chunks(states_MD, weight_VD), _chunks(teacher_MD, weight_VD), strict=True)
            for (rows, logits_CV, made_CV), (_, teacher_CV, _) in both:
                logs_CV, teacher_logs_CV = logits_CV.log_softmax(1), teacher_CV.log_softmax(1)
                teacher_shares_CV = torch.exp(teacher_logs_CV, out=teacher_CV)
                nats_M[rows] = (teacher_logs_CV.sub_(logs_CV).mul_(teacher_shares_CV)).sum(1)
                if gradient_MD is not None:
                    made_CV.copy_(torch.exp(logs_CV, out=logits_CV).sub_(teacher_shares_CV))
                    gradient_MD[rows] = made_CV @ weight_VD
        if gradient_MD is not None:
            ctx.save_for_backward(gradient_MD)
        return nats_M


def _chunks(states_MD: Tensor, weight_VD: Tensor) -> Any:
    """For each chunk its rows, its logits in float32, and as many numbers in the head's precision to write into.

    The numbers are the same memory from chunk to chunk.
    """
    n_tokens, vocabulary = len(states_MD), len(weight_VD)
    chunk = max(1, (CHUNK_CPU if states_MD.device.type == "cpu" else CHUNK_GPU) // vocabulary)
    made_CV = weight_VD.new_empty(min(chunk, n_tokens), vocabulary)
    logits_CV = made_CV if made_CV.dtype == torch.float32 else torch.empty_like(made_CV, dtype=torch.float32)
    for start in range(0, n_tokens, chunk):
        rows = slice(start, min(start + chunk, n_tokens))
        size = rows.stop - start
        torch.mm(states_MD[rows].to(weight_VD.dtype), weight_VD.T, out=made_CV[:size])
        yield rows, logits_CV[:size].copy_(made_CV[:size]), made_CV[:size]
