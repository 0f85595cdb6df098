"""SEAM 1: compressors, text to virtual memory tokens."""

from r3mem.compressors.base import Compressor, Written
from r3mem.compressors.mean_pool import MeanPool
from r3mem.compressors.recency_pool import RecencyPool
from r3mem.compressors.virtual_tokens import VirtualTokens

__all__ = ["Compressor", "MeanPool", "RecencyPool", "VirtualTokens", "Written"]
