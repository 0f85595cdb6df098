"""What validation and test measure, as one bundle."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torchmetrics import Metric

from r3mem.memory import Segments
from r3mem.metrics import RecallExactMatch, RecallTokenAccuracy, RetainedGain, TokenNLL
from r3mem.objectives import Contrast, ForwardNLL, QueryNLL

#: What is measured of (context, query) pairs.
PAIR_TERMS = (ForwardNLL(), QueryNLL(), Contrast())


class EvaluationMetrics(nn.Module):
    """Likelihood given nothing, memory and full text; retained gain; words recalled without corrections.

    The three likelihoods come from the same adapters, so part of the gain may be the adapters having learnt to lean on
    a memory. ``benchmarks/claims/retention.py`` compares with adapters trained without one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nll_nothing, self.nll_memory, self.nll_full = TokenNLL(), TokenNLL(), TokenNLL()
        self.retained_gain = RetainedGain()
        self.recall_exact_match, self.recall_token_accuracy = RecallExactMatch(), RecallTokenAccuracy()
        self.pairs = nn.ModuleDict({f"pair_{term.name}": TokenNLL() for term in PAIR_TERMS})

    def likelihood(
        self, nothing: tuple[Tensor, Tensor], memory: tuple[Tensor, Tensor], full: tuple[Tensor, Tensor]
    ) -> None:
        """Add the same tokens three times, each as ``(sum of nats, count)``."""
        self.nll_nothing.update(*nothing)
        self.nll_memory.update(*memory)
        self.nll_full.update(*full)
        self.retained_gain.update(nothing[0], memory[0], full[0])

    def words(self, recalled: Segments, text: Segments) -> None:
        """Add recalled segments."""
        self.recall_exact_match.update(recalled, text)
        self.recall_token_accuracy.update(recalled, text)

    def pair_term(self, name: str, summed: Tensor, count: Tensor) -> Metric:
        """Add to a term of pairs; gives its mean over all that all processes count, NaN where nothing is counted."""
        metric = cast(TokenNLL, self.pairs[f"pair_{name}"])
        metric.update(summed, count.long())
        return metric

    def named(self, has_history: bool) -> dict[str, Metric]:
        """Metrics under the names they are logged by; likelihoods need a segment with another before it."""
        return {
            name: metric
            for name, metric in self.named_children()
            if isinstance(metric, Metric) and (has_history or name.startswith("recall"))
        }
