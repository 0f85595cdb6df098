"""Policies of indexing: what finds and ranks entries for a query."""

from r3mem.store.indexing.base import Indexing
from r3mem.store.indexing.embeddings import Embeddings
from r3mem.store.indexing.full_text import FullText
from r3mem.store.indexing.fused import Fused
from r3mem.store.indexing.likelihood import Likelihood

__all__ = ["Embeddings", "FullText", "Fused", "Indexing", "Likelihood"]
