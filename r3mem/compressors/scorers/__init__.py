"""What a position of a text is worth to a later reader, per layer and head: one class a file."""

from r3mem.compressors.scorers.attention_received import AttentionReceived
from r3mem.compressors.scorers.base import Scorer
from r3mem.compressors.scorers.benefit_weighted import BenefitWeightedAttention
from r3mem.compressors.scorers.distant_attention import DistantAttention
from r3mem.compressors.scorers.expected_attention import ExpectedAttention
from r3mem.compressors.scorers.future_attention import FutureAttention
from r3mem.compressors.scorers.last_queries import LastQueries
from r3mem.compressors.scorers.random_scores import RandomScores
from r3mem.compressors.scorers.recency import Recency
from r3mem.compressors.scorers.repeated_text import RepeatedText
from r3mem.compressors.scorers.sum_of_scorers import SumOfScorers

__all__ = [
    "AttentionReceived",
    "BenefitWeightedAttention",
    "DistantAttention",
    "ExpectedAttention",
    "FutureAttention",
    "LastQueries",
    "RandomScores",
    "Recency",
    "RepeatedText",
    "Scorer",
    "SumOfScorers",
]
