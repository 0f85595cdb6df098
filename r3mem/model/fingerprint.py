"""What a memory says of the model that wrote it, beside backbone and stack: the compressor, and trained weights."""

from __future__ import annotations

import json

from torch import nn

from r3mem.backbone import Backbone
from r3mem.compressors import Compressor
from r3mem.model.weight_names import WEIGHT_NAMES, KeptName, Weights, acting, name_of
from r3mem.plain_data.components import identity

LEVELS = "level embedding"


def compressor_name(compressor: Compressor) -> str:
    """Class and settings as JSON, but for those that say nothing of what a slot holds.

    Args:
        compressor: The compressor.
    """
    described = identity(compressor)
    left_out = compressor.state_settings
    settings = {key: value for key, value in described["init_args"].items() if key not in left_out}
    return json.dumps({"class": described["class_path"], **settings}, sort_keys=True)


class WeightNames:
    """The names of a model's `WEIGHT_NAMES`, kept until a weight changes."""

    def __init__(self) -> None:
        self._adapters, self._weights = KeptName(), KeptName()

    def forget(self) -> None:
        """Make the names anew when they are asked for next."""
        self._adapters.forget()
        self._weights.forget()

    def of(self, backbone: Backbone, compressor: Compressor, levels: nn.Embedding | None, keep: bool) -> dict[str, str]:
        """The names of the weights as they are now.

        Args:
            backbone: Has the adapters.
            compressor: Has weights of its own.
            levels: Tells levels apart, or None.
            keep: Whether the names may be kept until a weight is changed.
        """

        def own() -> Weights:
            return {**compressor.state_dict(keep_vars=True), **({} if levels is None else {LEVELS: levels.weight})}

        def adapters() -> Weights:
            return dict(backbone.adapter_parameters())

        scale = str(backbone.lora_alpha / max(1, backbone.lora_rank))
        names = (
            self._adapters.of([backbone], adapters, lambda found: name_of(acting(found.items()), scale), keep),
            self._weights.of([compressor, levels], own, _own_name, keep),
        )
        return dict(zip(WEIGHT_NAMES, names, strict=True))


def _own_name(weights: Weights) -> str:
    # At 0 the levels' embeddings do nothing, as where there is one level.
    return name_of({name: tensor for name, tensor in weights.items() if name != LEVELS or tensor.any()})
