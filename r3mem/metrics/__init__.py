"""Metrics (torchmetrics classes)."""

from r3mem.metrics.likelihood import RetainedGain, TokenNLL
from r3mem.metrics.recall import RecallExactMatch, RecallTokenAccuracy

__all__ = ["RecallExactMatch", "RecallTokenAccuracy", "RetainedGain", "TokenNLL"]
