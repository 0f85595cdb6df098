"""What a backbone reads in front of a text.

Shape legend: B batch, P prefix positions, M of them with keys and values, Q = P - M with states, D width, W numbers of
one position's keys and values in all layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from r3mem.errors import ConfigError
from r3mem.plain_data.by_content import ByContent


@dataclass(eq=False, repr=False)
class Prefix(ByContent):
    """Virtual tokens in the backbone's own space, to be placed in front of a text.

    It is made of hidden states. Where there are keys and values too, these stand in front: every layer's attention
    reads them, and nothing is computed at their positions. ``states_BPD`` then has the Q positions behind them, none as
    a rule.

    Attributes:
        states_BPD: Hidden states that stand at the prefix's positions from ``layer`` on.
        mask_BP: True where a position is to be read.
        positions_BP: Position ids, ``long``.
        start_B: Position id of the first text token after the prefix.
        layer: Decoder layer whose input the states are; 0 is the input embeddings (an ordinary soft prompt).
        key_values_BMW: Keys and values of all layers at the first M positions, see `KeyValueLayout`.
        segment_BP: Number of the segment that each position is of, where those of several segments stand side by side
            and do not see each other; -1 at positions that all see and that see all. None: one sees those before it.
        layer_share: Share of the model's layers, from the lowest, whose keys and values ``key_values_BMW`` holds. The
            layers above read nothing of the prefix.

    Raises:
        ConfigError: Keys and values together with states that enter at a middle layer, or states in front of some
            layers alone.
    """

    states_BPD: Tensor
    mask_BP: Tensor
    positions_BP: Tensor
    start_B: Tensor
    layer: int = 0
    key_values_BMW: Tensor | None = None
    segment_BP: Tensor | None = None
    layer_share: float = 1.0

    def __post_init__(self) -> None:
        if self.key_values_BMW is not None and self.layer > 0:
            raise ConfigError("states behind keys and values can only enter at layer 0")
        if self.layer_share < 1 and self.n_cached != self.n_positions:
            raise ConfigError("only a prefix of keys and values can be read by some of the layers")

    @property
    def n_positions(self) -> int:
        """P: positions in the backbone's context."""
        return self.mask_BP.shape[1]

    @property
    def n_cached(self) -> int:
        """M: positions of keys and values."""
        return 0 if self.key_values_BMW is None else self.key_values_BMW.shape[1]

    @property
    def last_B(self) -> Tensor:
        """Where the last state in use of each row stands among its states; 0 for a row that has none."""
        places_P = torch.arange(self.states_BPD.shape[1], device=self.mask_BP.device)
        last_B: Tensor = (places_P * self.mask_BP[:, self.mask_BP.shape[1] - len(places_P) :]).amax(1)
        return last_B

    def segments(self, n_behind: int) -> Tensor | None:
        """``segment_BP``, and -1 at so many positions behind the prefix; None where nothing is apart."""
        return None if self.segment_BP is None else pad(self.segment_BP, (0, n_behind), value=-1)
