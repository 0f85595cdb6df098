"""What the parts of a backbone need of it: so that they can be read, typed and tested without it.

Shape legend: B batch, N text tokens, S positions of one pass, D width.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from r3mem.backbone.key_values import KeyValueLayout, Pair
from r3mem.backbone.prefix import Prefix


class LanguageModel(Protocol):
    """A language model that reads prefixes; `Backbone` is the one there is, and says more of each member.

    Attributes:
        name: What it is called in errors.
        base: The model of transformers, without adapters.
        model: The same with its adapters.
        tokenizer: Its tokenizer.
        layers: The decoder layers.
        generation_pad: Token id that pads what is generated, where nothing else is given.
        pack: Longest packed row, or None.
        gradient_checkpointing: Whether layers are computed again in the backward pass.
    """

    name: str
    base: Any
    model: nn.Module
    tokenizer: Any
    layers: nn.ModuleList
    generation_pad: Any
    pack: int | None
    gradient_checkpointing: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``[prefix ; text ; slots]`` once: a `Pass`."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding table."""

    @property
    def output(self) -> int:
        """What ``capture`` calls the states behind the final norm."""

    @property
    def plain_head(self) -> nn.Linear | None:
        """The head where logits are its output and nothing else; else None."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def compute(self) -> torch.dtype:
        """Precision of the computation."""

    @property
    def max_positions(self) -> int:
        """Positions the model was built for."""

    @property
    def arguments(self) -> frozenset[str]:
        """Names of the arguments of the model's ``forward``."""

    @property
    def key_values(self) -> KeyValueLayout:
        """How keys and values make one vector a position."""

    def takes(self, argument: str) -> bool:
        """Whether the model's ``forward`` has an argument."""

    def embed(self, ids_BN: Tensor) -> Tensor:
        """Input embeddings ``BND`` of token ids."""

    def front(self, prefix: Prefix) -> list[Pair]:
        """Keys and values of a prefix, for each layer."""

    def above(self, prefix: Prefix) -> list[nn.Module]:
        """Layers that read nothing of a prefix of keys and values."""

    def check_positions(self, positions_BS: Tensor, valid_BS: Tensor) -> None:
        """Refuse a pass that needs more positions than the model has."""

    def check_fits(self, needed: int, what: str, advice: str) -> None:
        """Refuse what needs more positions than the model has."""
