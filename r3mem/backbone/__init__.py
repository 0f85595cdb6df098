"""Any causal language model, frozen: its source and adapters, prefixes in front of it, what its passes give."""

from r3mem.backbone.backbone import AUTO, Backbone, Pass

__all__ = [
    "AUTO",
    "Backbone",
    "Pass",
]
