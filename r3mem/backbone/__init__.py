"""Any causal language model, frozen: its source and adapters, prefixes in front of it, what its passes give."""

from r3mem.backbone.backbone import AUTO, Backbone
from r3mem.backbone.one_pass import Pass

__all__ = [
    "AUTO",
    "Backbone",
    "Pass",
]
