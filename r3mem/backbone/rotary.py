"""Rotary positions of a model, done and undone: a key at one place in a text becomes the same key at another.

A rotary model turns every key by an angle that grows with its position, and attention sees differences of angles alone.
A key that was turned back can so be read at any position as if it had been written there.

Shape legend: B batch, H heads, P positions, E width of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from r3mem.errors import ConfigError


class Rotary:
    """A model's own rotation of keys; nothing is done where it has none (learned or no positions).

    Args:
        model: The language model.

    Raises:
        ConfigError: The model turns its keys, and how is not found.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        #: A list keeps the module from being registered anywhere.
        self._angles = [m for m in model.modules() if isinstance(getattr(m, "inv_freq", None), Tensor)][:1]
        self._apply: Callable[..., Any] | None = getattr(
            sys.modules[type(model).__module__], "apply_rotary_pos_emb", None
        )
        #: What is wrong with a model whose rotation is another than the one found.
        self.not_understood = (
            f"{type(model).__name__} turns its keys by position in a way of its own, so that it cannot carry memories "
            "of keys and values: take another backbone, or a compressor of hidden states"
        )
        configured = any("rope" in key or "rotary" in key for key in model.config.to_dict())
        if (self._angles and self._apply is None) or (configured and not self._angles):
            raise ConfigError(self.not_understood)

    @property
    def turns(self) -> bool:
        """Whether the model turns its keys."""
        return bool(self._angles)

    def turn(self, keys_BHPE: Tensor, positions_BP: Tensor, back: bool = False) -> Tensor:
        """Keys as they are at their positions, of keys at position 0.

        Args:
            keys_BHPE: Keys.
            positions_BP: Position ids.
            back: Keys at position 0, of keys at their positions.
        """
        if not self._angles or self._apply is None:
            return keys_BHPE
        angles: nn.Module = self._angles[0]
        cos_BPR, sin_BPR = angles(keys_BHPE, positions_BP)
        if back:
            # Some kinds of scaling lengthen what they turn.
            length = float(cast(float, getattr(angles, "attention_scaling", 1.0)))
            cos_BPR, sin_BPR = cos_BPR / length**2, -sin_BPR / length**2
        turned_BHPE, rest_BHPE = keys_BHPE.tensor_split([cos_BPR.shape[-1]], -1)
        return torch.cat([self._apply(turned_BHPE, turned_BHPE, cos_BPR, sin_BPR)[1], rest_BHPE], -1)
