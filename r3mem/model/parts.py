"""Whether the parts of a model belong together, and the decoder that fits a compressor where none is given."""

from __future__ import annotations

from r3mem.backbone import Backbone
from r3mem.compressors import Compressor
from r3mem.errors import ConfigError
from r3mem.errors.caller_warnings import warn_caller
from r3mem.hierarchy import Hierarchy, Refined
from r3mem.reversible import Decoder, PositionBinding


def check_kinds(backbone: object, *others: object) -> None:
    """Refuse a part that stands in the place of another, or is none.

    Args:
        backbone: The backbone.
        *others: Compressor, decoder and hierarchy, each None where the default is meant.

    Raises:
        ConfigError: Says which, and what belongs there.
    """
    kinds = {"backbone": Backbone, "compressor": Compressor, "decoder": Decoder, "hierarchy": Hierarchy}
    for (name, kind), part in zip(kinds.items(), (backbone, *others), strict=True):
        if part is not None and not isinstance(part, kind):
            raise ConfigError(
                f"the {name} is a {kind.__name__}, not {type(part).__name__}: give one, or leave it out for the default"
            )


def check_fit(backbone: Backbone, compressor: Compressor, decoder: Decoder, hierarchy: Hierarchy) -> None:
    """Refuse parts of different ratios or widths; warn of a hierarchy that the compressor makes no use of.

    Args:
        backbone: The backbone.
        compressor: The compressor.
        decoder: The decoder.
        hierarchy: The hierarchy.

    Raises:
        ConfigError: Says which differ, and what to set.
    """
    if compressor.ratio != decoder.ratio:
        raise ConfigError(
            f"the compressor's ratio is {compressor.ratio}, the decoder's {decoder.ratio}: make them equal"
        )
    for part in (compressor, *getattr(decoder, "couplings", ())):
        width = getattr(part, "width", backbone.width)
        if width != backbone.width:
            raise ConfigError(
                f"{type(part).__name__} is {width} wide, the backbone {backbone.name} {backbone.width}: "
                f"set width to {backbone.width}"
            )
    if isinstance(hierarchy, Refined) and not compressor.recurrent:
        warn_caller(
            f"{type(compressor).__name__} writes nothing of what it has read, so Refined gives the memories of "
            "MultiLevel: set write_layer above read_layer, or take another compressor"
        )


def default_binding(backbone: Backbone, compressor: Compressor) -> PositionBinding:
    """Where keys and values are read, words are few, quiet, and in the last layer's keys first.

    Args:
        backbone: The backbone.
        compressor: What writes the slots that the words are bound into.
    """
    if compressor.memory_width(backbone) == backbone.width:
        return PositionBinding(backbone.width, compressor.ratio)
    layout = backbone.key_values
    return PositionBinding(
        backbone.width, compressor.ratio, share=0.9, token_dims=5, block=layout.heads * layout.head_width,
        amplitude=0.1,
    )  # fmt: skip
