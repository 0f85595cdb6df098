"""SEAM 1: compressors, text to virtual memory tokens."""

from r3mem.compressors.base import Compressor, Written
from r3mem.compressors.controls.last_tokens import LastTokens
from r3mem.compressors.controls.mean_pool import MeanPool
from r3mem.compressors.controls.no_memory import NoMemory
from r3mem.compressors.controls.random_memory import RandomMemory
from r3mem.compressors.edge_pool import EdgePool
from r3mem.compressors.interleaved_tokens import InterleavedTokens
from r3mem.compressors.peers.accumulating_summaries import AccumulatingSummaries
from r3mem.compressors.peers.activation_beacon import ActivationBeacon
from r3mem.compressors.peers.associative_blocks import AssociativeBlocks
from r3mem.compressors.peers.five_hundred_x import FiveHundredXCompressor
from r3mem.compressors.peers.gist_tokens import GistTokens
from r3mem.compressors.peers.in_context_autoencoder import InContextAutoencoder
from r3mem.compressors.peers.memformer import Memformer
from r3mem.compressors.peers.recurrent_memory import RecurrentMemory
from r3mem.compressors.peers.retention_valve import RetentionValve
from r3mem.compressors.selected_key_values import SelectedKeyValues
from r3mem.compressors.virtual_tokens import VirtualTokens

__all__ = [
    "AccumulatingSummaries",
    "ActivationBeacon",
    "AssociativeBlocks",
    "Compressor",
    "EdgePool",
    "FiveHundredXCompressor",
    "GistTokens",
    "InContextAutoencoder",
    "InterleavedTokens",
    "LastTokens",
    "MeanPool",
    "Memformer",
    "NoMemory",
    "RandomMemory",
    "RecurrentMemory",
    "RetentionValve",
    "SelectedKeyValues",
    "VirtualTokens",
    "Written",
]
