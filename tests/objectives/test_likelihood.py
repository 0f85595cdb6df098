"""Likelihoods against the plain chain rule; what does not count is not looked at.

Shape legend: B rows, N text tokens, V vocabulary.
"""

from __future__ import annotations

import torch

from r3mem.memory import Segments
from r3mem.objectives import forward_nll, log_likelihood


def texts() -> tuple[torch.Tensor, Segments]:
    """Logits of three texts of 5, 3 and 0 tokens."""
    torch.manual_seed(0)
    return torch.randn(3, 5, 11), Segments(torch.randint(11, (3, 5)), torch.tensor([5, 3, 0]))


def test_likelihood_is_of_each_rows_own_tokens() -> None:
    logits_BNV, text = texts()
    nats_BNV = logits_BNV.log_softmax(-1)

    def plain(b: int, first: int, last: int) -> float:
        return sum(float(nats_BNV[b, i - 1, text.ids_BN[b, i]]) for i in range(first, last))

    torch.testing.assert_close(log_likelihood(logits_BNV, text, 2), torch.tensor([plain(0, 2, 5), plain(1, 2, 3), 0.0]))
    found_B = log_likelihood(logits_BNV, text, torch.tensor([1, 2, 1]), torch.tensor([3, 3, 0]))
    torch.testing.assert_close(found_B, torch.tensor([plain(0, 1, 3), plain(1, 2, 3), 0.0]))
    total, count = forward_nll(logits_BNV, text, torch.tensor([False, True, True]))
    torch.testing.assert_close(total, torch.tensor(-plain(1, 1, 3)))
    assert int(count) == 2


def test_logits_that_do_not_count_change_nothing() -> None:
    logits_BNV, text = texts()
    spoilt_BNV = logits_BNV.masked_fill(~text.mask_BN[..., None], torch.nan).requires_grad_()
    found_B = log_likelihood(spoilt_BNV, text)
    torch.testing.assert_close(found_B, log_likelihood(logits_BNV, text))
    found_B.sum().backward()
    # A token's logits say what comes next: the last token's say nothing of the text.
    assert spoilt_BNV.grad is not None
    assert spoilt_BNV.grad.any(-1).tolist() == [[True] * 4 + [False], [True] * 2 + [False] * 3, [False] * 5]


def test_nothing_that_counts_is_a_zero_with_a_gradient() -> None:
    logits_BNV, text = texts()
    logits_BNV.requires_grad_()
    total, count = forward_nll(logits_BNV, text, torch.zeros(3, dtype=torch.bool))
    total.backward()
    assert float(total.detach()) == 0 and int(count) == 0 and not logits_BNV.grad.any()
