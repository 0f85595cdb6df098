"""SEAM 1: how a segment becomes virtual memory tokens, and how a language model reads them.

Shape legend: B batch, N text tokens, K virtual tokens, D width, V vocabulary, P prefix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from r3mem.backbone import Backbone
from r3mem.backbone.evaluation_mode import Switched
from r3mem.backbone.next_tokens import Scores, logits_of
from r3mem.backbone.prefix import Prefix
from r3mem.compressors.ratio_in_force import in_force
from r3mem.errors import ConfigError
from r3mem.errors.renamed import refuse_old_methods
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import MemoryState, Segments, slots_needed
from r3mem.plain_data.by_content import ByContent


@dataclass(eq=False, repr=False)
class Written(ByContent):
    """What a compressor gives for one segment.

    Attributes:
        slots_BKD: The initial memory stream ``V_0``, float32; rows shorter than the longest have zero slots at the end.
        scores: Next-token logits ``BNV`` at the text given the memory before it, or what makes them (``scores`` of the
            backbone's pass); None if not asked for.
    """

    slots_BKD: Tensor
    scores: Scores | None

    @property
    def logits_BNV(self) -> Tensor | None:
        """The logits; made when they are first read."""
        return logits_of(self.scores)


class Compressor(Switched, ABC):
    """Text to virtual tokens, and virtual tokens to a prefix.

    A subclass stores each constructor argument in an attribute of the same name: saving and loading depend on it.

    Args:
        ratio: Text tokens per virtual token. It may be changed at any time; nothing learned depends on it.

    Attributes:
        accumulates: Whether a state holds more than its last segment, see `next_state`.
        state_settings: Arguments that say nothing of what a slot holds: memories are told apart without them.
        reading_settings: Arguments on which reading depends: a memory that was written with others is refused.
    """

    accumulates: ClassVar[bool] = False
    state_settings: ClassVar[tuple[str, ...]] = ("ratio",)
    reading_settings: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_old_methods(cls, spell="read_to_reconstruct")

    def __init__(self, ratio: int) -> None:
        super().__init__()
        self.ratio = ratio

    @property
    def ratio(self) -> int:
        """Text tokens per virtual token; inside `SegmentModel.at_ratio` that of the calling thread."""
        found = in_force(self)
        return int(self.__dict__["ratio"]) if found is None else found.ratio

    @ratio.setter
    def ratio(self, ratio: int) -> None:
        if whole_setting(ratio, "ratio") < 1:
            raise ConfigError(f"ratio {ratio} is not possible; the smallest ratio is 1 text token per virtual token")
        self.__dict__["ratio"] = int(ratio)

    @property
    def recurrent(self) -> bool:
        """Whether what is written depends on the memory that is read; if not, it says nothing of earlier segments."""
        return True

    @property
    def state_slots(self) -> int | None:
        """Most slots that a state of several segments holds; None where a state is of one segment."""
        return None

    def memory_width(self, backbone: Backbone) -> int:
        """Numbers of one virtual token for a backbone, D where it is a state of its own width.

        Of wider ones the first D go through the reversible stack, the others ride along. It is asked of the backbone
        and not told by the user, so that it cannot contradict it.
        """
        return backbone.width

    def scale_group(self, backbone: Backbone) -> int | None:
        """Coordinates of a slot that share a scale where it is stored in int8; None where all do."""
        return None

    @abstractmethod
    def forward(self, backbone: Backbone, text: Segments, memory: MemoryState | None, logits: bool = True) -> Written:
        """Compress one segment of each row, reading the memory of what came before.

        Args:
            backbone: The language model.
            text: The segments.
            memory: What each row remembers so far, or None at the start of a text.
            logits: Whether the forward likelihood is needed; without it the pass may end early.
        """

    @abstractmethod
    def read(self, memory: MemoryState) -> Prefix:
        """Turn a memory into what the backbone reads in front of its input."""

    def next_state(self, backbone: Backbone, before: MemoryState | None, written: MemoryState) -> MemoryState:
        """What is remembered after a segment: its own memory, of constant size, unless a subclass accumulates.

        Args:
            backbone: The language model.
            before: What was remembered before the segment, None at the start of a text.
            written: The segment's own finished memory; a row of length 0 had no segment.
        """
        return written

    def choose(self, backbone: Backbone, memory: MemoryState, query: Segments, slots: int) -> MemoryState:
        """Fewer virtual tokens of a memory: those that a query needs, now that it is known.

        Args:
            backbone: The language model.
            memory: All that could be read.
            query: What is asked, or the last words of what goes on.
            slots: Virtual tokens that are read at most.

        Raises:
            ConfigError: The compressor's virtual tokens cannot be chosen from.
        """
        raise ConfigError(
            f"{type(self).__name__} cannot choose virtual tokens at reading time: read all, or take SelectedKeyValues"
        )

    def fewer(self, backbone: Backbone, memory: MemoryState, slots: int) -> MemoryState | None:
        """Those virtual tokens of a state that are worth most, where not all can be read.

        Args:
            backbone: The language model.
            memory: The state.
            slots: Virtual tokens that are read at most, at least 1.

        Returns:
            The smaller state; None where nothing says what a virtual token is worth.
        """
        return None

    def read_to_reconstruct(self, memory: MemoryState) -> Prefix:
        """Turn a memory into what the backbone reads where it is to reconstruct the text behind it; as `read` here."""
        return self.read(memory)

    def reading(self, backbone: Backbone) -> AbstractContextManager[None]:
        """Inside, the backbone is the one that reads memories: with its adapters, unless a subclass says otherwise."""
        return nullcontext()

    def calibrate(self, backbone: Backbone, text: Segments, finish: Callable[[Tensor], Tensor]) -> float:
        """Set the start of what is learned from the backbone's own states of sample text. Nothing by default.

        Args:
            backbone: The language model.
            text: Sample text.
            finish: Turns initial slots ``V_0`` of this text into finished virtual tokens ``V_S``, ``BKD``.

        Returns:
            Share of variance that the calibrated reading explains; 1 where nothing is calibrated.
        """
        return 1.0

    def slot_mask(self, text: Segments) -> Tensor:
        """``bool BK``: which slots stand for at least one token of the text."""
        n_slots = slots_needed(text.ids_BN.shape[1], self.ratio)
        first_token_K = torch.arange(n_slots, device=text.ids_BN.device) * self.ratio
        return first_token_K < text.lengths_B[:, None]

    def slots_after(self, text: Segments) -> Tensor:
        """How many tokens stand in front of a slot that stands behind the last of its own: ``BK``, ``long``."""
        ends_K = (
            torch.arange(slots_needed(text.ids_BN.shape[1], self.ratio), device=text.ids_BN.device) + 1
        ) * self.ratio
        return torch.minimum(ends_K, text.lengths_B[:, None])


def mean_by_slot(states_BND: Tensor, weight_BN: Tensor, ratio: int) -> Tensor:
    """Weighted mean of the states each slot covers; slots that cover nothing are zero.

    Args:
        states_BND: States of the text tokens.
        weight_BN: Weight of each token, 0 for padding.
        ratio: Tokens per slot.

    Returns:
        ``BKD`` in float32, ``K = ceil(N / ratio)``.
    """
    n_batch, n_text, width = states_BND.shape
    n_slots = slots_needed(n_text, ratio)
    pad = n_slots * ratio - n_text
    weight_BKr1 = nn.functional.pad(weight_BN.float(), (0, pad)).view(n_batch, n_slots, ratio, 1)
    states_BKrD = nn.functional.pad(states_BND.float(), (0, 0, 0, pad)).view(n_batch, n_slots, ratio, width)
    total_BK1 = weight_BKr1.sum(2).clamp(min=1e-6)
    return (states_BKrD * weight_BKr1).sum(2) / total_BK1
