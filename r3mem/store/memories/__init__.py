"""Texts to virtual tokens as they are stored, and back: what of a store needs the model, and torch."""

from r3mem.store.memories.loading import load_model
from r3mem.store.memories.scores import query_likelihoods
from r3mem.store.memories.stored import Record, made_by, recalled, records, unpacked

__all__ = ["Record", "load_model", "made_by", "query_likelihoods", "recalled", "records", "unpacked"]
