"""What turns streams into text: decoders and their codecs, read-out, corrections."""

from typing import TYPE_CHECKING

from r3mem.errors.renamed import old_names
from r3mem.recall.autoregressive import AutoregressiveCodec, AutoregressiveDecoder
from r3mem.recall.base import Codec, Decoder, MemoryReader, RecallRecord
from r3mem.recall.stack_codec import StackCodec

__all__ = [
    "AutoregressiveCodec",
    "AutoregressiveDecoder",
    "Codec",
    "Decoder",
    "MemoryReader",
    "RecallRecord",
    "StackCodec",
]

if not TYPE_CHECKING:
    __getattr__ = old_names(
        __name__,
        Proof="RecallRecord",
        TextSide="Codec",
        ExactText="StackCodec",
        SpeltText="AutoregressiveCodec",
        Speller="MemoryReader",
    )
