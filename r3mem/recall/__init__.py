"""What turns streams into text: decoders and their text sides, read-out, corrections."""

from r3mem.recall.autoregressive import AutoregressiveDecoder
from r3mem.recall.base import Decoder, Proof, Speller, TextSide
from r3mem.recall.exact_text import ExactText

__all__ = [
    "AutoregressiveDecoder",
    "Decoder",
    "ExactText",
    "Proof",
    "Speller",
    "TextSide",
]
