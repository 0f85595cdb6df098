"""Keys and values of a model's attention as memory: taken out of one pass, put in front of another.

Shape legend: B batch, P prefix positions, K write slots, S positions of one pass, L layers, H heads of keys and values,
E width of a head, W = 2 * L * H * E numbers of one position.

One position is kept as one vector. Keys stand in it as they are at position 0 (`Rotary`), so that a memory does not
depend on where it was written, and can be read at any position::

    layer L-1        layer L-2        ...   layer 0
    keys | values    keys | values          keys | values      each H * E wide

The last layer stands first, because the first numbers are those that words share: what is wrong with the keys and
values of the last layer disturbs its attention alone, while the values of the lowest layers, small as they are, decide
all above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from r3mem.backbone.evaluation_mode import evaluating
from r3mem.backbone.rotary import Rotary
from r3mem.errors import ConfigError, InputError

#: ``(keys_BHPE, values_BHPE)`` of one layer.
Pair = tuple[Tensor, Tensor]
PROBED_POSITION, LARGEST_ERROR = 5, 0.05


class PassCache(DynamicCache):
    """The cache of a single pass: gives every layer what stands in front, and keeps what the last positions leave.

    Args:
        front: Keys and values of each layer that stand in front of the pass, or none.
        keep: How many of the pass's last positions are kept.
    """

    def __init__(self, front: Sequence[Pair] = (), keep: int = 0) -> None:
        super().__init__()
        self.front, self.keep, self.seen = front, keep, 0
        self.kept: list[Pair] = []

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Pair:
        """What a layer attends to, of its own keys and values, ``BHSE`` both."""
        self.seen += 1
        if self.keep:
            first = key_states.shape[2] - self.keep
            # Copies, since a part would keep the text's keys and values alive with it.
            self.kept.append((key_states[:, :, first:].clone(), value_states[:, :, first:].clone()))
        if not self.front:
            return key_states, value_states
        keys_BHPE, values_BHPE = self.front[layer_idx]
        return (
            torch.cat([keys_BHPE.to(key_states.dtype), key_states], 2),
            torch.cat([values_BHPE.to(value_states.dtype), value_states], 2),
        )

    def get_seq_length(self, layer_idx: int = 0, *_: Any, **__: Any) -> int:
        """Positions in front of the pass."""
        return self.front[layer_idx][0].shape[2] if self.front else 0


@dataclass
class KeyValueLayout:
    """How the keys and values of one model make one vector a position.

    Attributes:
        layers: L.
        heads: H.
        head_width: E.
        rotary: The model's rotation of keys.
    """

    layers: int
    heads: int
    head_width: int
    rotary: Rotary

    def lowest(self, share: float) -> KeyValueLayout:
        """The layout of the lowest layers alone.

        Args:
            share: Of the layers; rounded, and at least one of them.
        """
        return replace(self, layers=max(1, round(share * self.layers)))

    @property
    def width(self) -> int:
        """W, numbers of one position."""
        return 2 * self.layers * self.heads * self.head_width

    @classmethod
    @torch.no_grad()
    def of(cls, model: PreTrainedModel, layers: int) -> KeyValueLayout:
        """Found by one pass of one token at two positions: nothing is supposed of the architecture.

        Args:
            model: The language model, without adapters.
            layers: Its decoder layers.

        Raises:
            ConfigError: The model does not work with a cache, its layers differ, or it turns keys in an unknown way.
        """
        rotary, cache, device = Rotary(model), PassCache(keep=1), model.device
        positions_21 = torch.tensor([[0], [PROBED_POSITION]], device=device)
        mask_2111 = torch.zeros(2, 1, 1, 1, dtype=model.dtype, device=device)
        # Any token will do but that of padding, which may have no keys at all.
        some_token = len(cast(nn.Embedding, model.get_input_embeddings()).weight) // 2
        with evaluating(model):
            model(
                input_ids=torch.full_like(positions_21, some_token), position_ids=positions_21,
                attention_mask=mask_2111, past_key_values=cache, use_cache=True,
            )  # fmt: skip
        shapes = {tuple(tensor.shape[1:]) for pair in cache.kept for tensor in pair}
        if len(cache.kept) != layers or len(shapes) != 1:
            raise ConfigError(
                f"the {layers} layers of {type(model).__name__} do not each keep keys and values of one shape in a "
                "cache, so that it cannot carry memories of them: take a compressor of hidden states"
            )
        heads, _, head_width = shapes.pop()
        made = cls(layers, heads, head_width, rotary)
        if rotary.turns:
            # A token alone has the same keys at every position but for the turn, in every layer.
            at_two_2HE = made.flat(cache.kept, positions_21)[:, 0]
            error = (at_two_2HE[0] - at_two_2HE[1]).abs().max() / at_two_2HE.abs().max()
            if not error <= LARGEST_ERROR:
                raise ConfigError(rotary.not_understood)
        return made

    def flat(self, pairs: Sequence[Pair], positions_BK: Tensor) -> Tensor:
        """Vectors ``BKW``, float32, of the keys and values of every layer as a pass has them.

        Args:
            pairs: Keys and values of each layer, in order.
            positions_BK: Position ids at which they were made.
        """
        keys_BHKE = torch.cat([keys_BHKE for keys_BHKE, _ in reversed(pairs)], 1).float()
        keys_BHKE = self.rotary.turn(keys_BHKE, positions_BK, back=True)
        values_BHKE = torch.cat([values_BHKE for _, values_BHKE in reversed(pairs)], 1).float()
        both = [self._by_layer(t) for t in (keys_BHKE, values_BHKE)]
        return torch.stack(both, 2).permute(0, 4, 1, 2, 3, 5).flatten(2)

    def selected(self, pairs: Sequence[Pair], index_BLHK: Tensor, positions_BS: Tensor | None) -> Tensor:
        """Vectors ``BKW``, float32, whose heads hold the keys and values of positions of their own.

        Args:
            pairs: Keys and values of each layer, in order, as a pass over S positions has them.
            index_BLHK: Which of the S positions each layer and head takes.
            positions_BS: Position ids at which they were made; None leaves keys as they stand there.
        """
        taken = []
        for number, (keys_BHSE, values_BHSE) in enumerate(pairs):
            index_BHKE = index_BLHK[:, number, :, :, None].expand(-1, -1, -1, self.head_width)
            taken.append((keys_BHSE.gather(2, index_BHKE).float(), values_BHSE.gather(2, index_BHKE).float()))
        keys_BLHKE = torch.stack([keys_BHKE for keys_BHKE, _ in reversed(taken)], 1)
        values_BLHKE = torch.stack([values_BHKE for _, values_BHKE in reversed(taken)], 1)
        if positions_BS is not None:
            n_batch, layers, heads, n_slots, _ = keys_BLHKE.shape
            positions_BLHK = positions_BS[:, None, None].expand(-1, layers, heads, -1).gather(-1, index_BLHK.flip(1))
            # Every head as a row of its own, since each takes other positions.
            turned = self.rotary.turn(
                keys_BLHKE.reshape(-1, 1, n_slots, self.head_width), positions_BLHK.reshape(-1, n_slots), back=True
            )
            keys_BLHKE = turned.view(n_batch, layers, heads, n_slots, -1)
        both_BKL2HE = torch.stack([keys_BLHKE, values_BLHKE], 2).permute(0, 4, 1, 2, 3, 5)
        return both_BKL2HE.flatten(2)

    def pairs(self, key_values_BPW: Tensor, positions_BP: Tensor) -> list[Pair]:
        """Keys and values of every layer as they stand at their positions.

        Args:
            key_values_BPW: What `flat` gave.
            positions_BP: Position ids at which they are read.

        Raises:
            InputError: Vectors of another model's width.
        """
        if key_values_BPW.shape[-1] != self.width:
            raise InputError(
                f"a memory of keys and values is {self.width} numbers wide for this backbone ({self.layers} layers, "
                f"{self.heads} heads of {self.head_width}), but this one is {key_values_BPW.shape[-1]} wide: it is of "
                "another backbone or compressor"
            )
        n_batch, n_prefix = key_values_BPW.shape[:2]
        shape = (n_batch, n_prefix, self.layers, 2, self.heads, self.head_width)
        by_kind_2BLHPE = key_values_BPW.float().reshape(shape).permute(3, 0, 2, 4, 1, 5)
        keys_BHPE = self.rotary.turn(by_kind_2BLHPE[0].flatten(1, 2), positions_BP)
        return list(zip(self._by_layer(keys_BHPE).unbind(1), by_kind_2BLHPE[1].unbind(1), strict=True))[::-1]

    def _by_layer(self, heads_BHPE: Tensor) -> Tensor:
        """``BLHPE`` of all layers' heads in one row."""
        n_batch, _, n_places, width = heads_BHPE.shape
        return heads_BHPE.reshape(n_batch, self.layers, self.heads, n_places, width)
