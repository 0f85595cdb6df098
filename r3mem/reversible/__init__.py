"""SEAM 2: the reversible network between text and memory, and the decoder that it is compared with."""

from r3mem.reversible.attention_coupling import AttentionCoupling
from r3mem.reversible.autoregressive import AutoregressiveDecoder
from r3mem.reversible.base import Coupling
from r3mem.reversible.position_binding import PositionBinding
from r3mem.reversible.stack import ReversibleStack
from r3mem.reversible.text_side import Decoder
from r3mem.reversible.transformer_coupling import TransformerCoupling

__all__ = [
    "AttentionCoupling",
    "AutoregressiveDecoder",
    "Coupling",
    "Decoder",
    "PositionBinding",
    "ReversibleStack",
    "TransformerCoupling",
]
