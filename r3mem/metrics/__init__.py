"""Metrics (torchmetrics classes)."""

from r3mem.metrics.entities import EntityCoverage, EntityRecall
from r3mem.metrics.likelihood import RetainedGain, TokenNLL
from r3mem.metrics.recall import RecallExactMatch, RecallTokenAccuracy
from r3mem.metrics.retrieval import MeanReciprocalRank, RecallAtK

__all__ = [
    "EntityCoverage",
    "EntityRecall",
    "MeanReciprocalRank",
    "RecallAtK",
    "RecallExactMatch",
    "RecallTokenAccuracy",
    "RetainedGain",
    "TokenNLL",
]
