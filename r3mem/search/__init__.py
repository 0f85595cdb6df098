"""Search: passages ranked for a query, by memory alone, by their text, or by both."""

from r3mem.search.base import Searcher
from r3mem.search.bm25 import BM25
from r3mem.search.embeddings import Embeddings
from r3mem.search.query_likelihood import QueryLikelihood
from r3mem.search.random_order import RandomOrder
from r3mem.search.reciprocal_rank_fusion import ReciprocalRankFusion
from r3mem.search.text_likelihood import TextLikelihood
from r3mem.search.tree import Hit, TreeSearch

__all__ = [
    "BM25",
    "Embeddings",
    "Hit",
    "QueryLikelihood",
    "RandomOrder",
    "ReciprocalRankFusion",
    "Searcher",
    "TextLikelihood",
    "TreeSearch",
]
