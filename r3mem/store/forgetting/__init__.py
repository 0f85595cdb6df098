"""Policies of forgetting: what is erased, or merged away, when ``forget`` is called."""

from r3mem.store.forgetting.base import Forgetting
from r3mem.store.forgetting.by_age import ByAge
from r3mem.store.forgetting.by_bytes import ByBytes
from r3mem.store.forgetting.by_count import ByCount
from r3mem.store.forgetting.elastic_bank import ElasticBank

__all__ = ["ByAge", "ByBytes", "ByCount", "ElasticBank", "Forgetting"]
