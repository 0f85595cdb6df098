"""SEAM 2: the reversible network between text and memory, and the decoder that it is compared with."""

from r3mem.recall.autoregressive import AutoregressiveDecoder
from r3mem.recall.base import Decoder
from r3mem.reversible.base import Coupling
from r3mem.reversible.couplings.attention_coupling import AttentionCoupling
from r3mem.reversible.couplings.identity_coupling import IdentityCoupling
from r3mem.reversible.couplings.position_binding import PositionBinding
from r3mem.reversible.couplings.transformer_coupling import TransformerCoupling
from r3mem.reversible.stack import ReversibleStack

__all__ = [
    "AttentionCoupling",
    "AutoregressiveDecoder",
    "Coupling",
    "Decoder",
    "IdentityCoupling",
    "PositionBinding",
    "ReversibleStack",
    "TransformerCoupling",
]
