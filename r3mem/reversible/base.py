"""SEAM 2: what a coupling must offer.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from r3mem.backbone.evaluation_mode import Switched
from r3mem.errors import ConfigError
from r3mem.errors.renamed import refuse_old_methods


class Coupling(Switched, ABC):
    """One gain-1 step between the text stream and the memory stream (after RevNet, 1707.04585).

    ``memory += to_memory(text)``, then ``text -= to_text(memory)``. Whatever the two functions compute, the step
    inverts without growth of error, because each reads only the stream that it does not change. Slot k of the memory
    stands for text tokens ``k * ratio`` to ``(k + 1) * ratio - 1``; K is ``ceil(N / ratio)``.

    What a subclass has to keep, and what ``tests/battery/coupling.py`` checks:

    - Each constructor argument is stored in an attribute of the same name: saving and fingerprints depend on it.
    - ``to_memory`` depends on the text alone and ``to_text`` on the memory alone.
    - Positions at or beyond a row's length contribute nothing, even if they hold NaN. Slots from
      ``ceil(length / ratio)`` on and tokens from ``length`` on get exactly 0. A row of length 0 gets zeros.
    - Any dropout draws from torch's global generators, so that the stack can repeat it.
    - Parameters may be stored in half precision while streams are float32: cast the weight, not the stream.

    Attributes:
        ratio: Text tokens per virtual token.
    """

    ratio: int

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_old_methods(cls, exclude="project_off_share")

    @abstractmethod
    def to_memory(self, text_BND: Tensor, lengths_B: Tensor) -> Tensor:
        """F: what the text adds to the memory stream.

        Args:
            text_BND: Text stream.
            lengths_B: Tokens in each row, ``long``.

        Returns:
            ``memory_BKD`` with K = ceil(N / ratio).
        """

    @abstractmethod
    def to_text(self, memory_BKD: Tensor, lengths_B: Tensor, n_tokens: int) -> Tensor:
        """G: what the memory takes from the text stream.

        Args:
            memory_BKD: Memory stream.
            lengths_B: Tokens in each row, ``long``.
            n_tokens: N, the padded length of the text stream; ceil(N / ratio) must be K.

        Returns:
            ``text_BND``.
        """

    def at_ratio(self, ratio: int) -> Coupling:
        """This coupling for another ratio; only couplings that have learnt nothing about theirs can offer it.

        Raises:
            ConfigError: It cannot work at that ratio.
        """
        raise ConfigError(
            f"{type(self).__name__} is tied to ratio {self.ratio}: build and train a stack for ratio {ratio} instead"
        )

    def project_off_share(self, slots_BKD: Tensor) -> Tensor:
        """Free the part of the slots that this coupling needs for itself. Nothing, unless a subclass says otherwise."""
        return slots_BKD

    @property
    def share_dims(self) -> int:
        """Dimensions of a slot that carry words exactly; 0 when the coupling makes no such promise."""
        return 0

    @property
    def rotation_DD(self) -> Tensor | None:
        """Orthogonal matrix whose first ``share_dims`` columns span the exact share, or None.

        ``slots_BKD @ rotation_DD`` are the coordinates ``[exact share | rest]``; ``@ rotation_DD.T`` turns them back.
        """
        return None
