"""What of a model goes with its ratio, and how a thread has another ratio for a while.

A memory is read and recalled at the ratio that it was written at, whatever the model is at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from r3mem.backbone.evaluation_mode import Switched
from r3mem.compressors import Compressor
from r3mem.compressors.ratio_in_force import RATIO_GUARD, AtRatio, having, in_force, put
from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.memory import Memory
from r3mem.recall.base import Codec
from r3mem.reversible import Decoder


@dataclass(frozen=True)
class PartsAtRatio(AtRatio):
    """What of a model goes with its ratio.

    Attributes:
        decoder: The decoder of that ratio.
        codec: What reads words off its memories.
    """

    decoder: Decoder
    codec: Codec


class RatioModel(Switched):
    """A compressor, a decoder and what reads words off memories: all at one ratio, which can be changed.

    Attributes:
        compressor: The compressor; its ratio is the model's.
    """

    compressor: Compressor

    @property
    def ratio(self) -> int:
        """Text tokens per virtual token."""
        return self.compressor.ratio

    @property
    def _in_force(self) -> PartsAtRatio | None:
        """What the calling thread has instead of the model's own."""
        return cast("PartsAtRatio | None", in_force(self))

    # torch keeps parts in a table of its own; these are asked first, and give a thread's own where it has one.

    @property
    def decoder(self) -> Decoder:
        """The decoder; inside `at_ratio` that of the calling thread."""
        found = self._in_force
        return cast(Decoder, self._modules["decoder"]) if found is None else found.decoder

    @decoder.setter
    def decoder(self, decoder: Decoder) -> None:
        self._modules["decoder"] = decoder

    @property
    def codec(self) -> Codec:
        """What reads words off memories, exactly or not at all; inside `at_ratio` that of the calling thread."""
        found = self._in_force
        if found is not None:
            return found.codec
        own = self._modules.get("codec")
        return cast(Codec, self.__dict__["codec"] if own is None else own)

    @codec.setter
    def codec(self, codec: Codec) -> None:
        self.__dict__["codec"] = codec

    def set_ratio(self, ratio: int) -> None:
        """Compress at another ratio from now on, in every thread; inside `at_ratio` until its end, in this one.

        Nothing that was trained depends on the ratio. Calls that run in other threads end at theirs.

        Raises:
            ConfigError: The decoder cannot work at that ratio; the message says which it can.
        """
        ratio = whole_setting(ratio, "ratio", 1)
        if in_force(self) is not None:
            put((self, self.compressor), self._made_for(ratio))
            return
        decoder = self.decoder.at_ratio(ratio).train(self.decoder.training)
        with RATIO_GUARD:
            self.decoder = decoder
            self.codec.use(decoder)
            self.compressor.ratio = ratio

    @contextmanager
    def at_ratio(self, ratio: int | None) -> Iterator[None]:
        """Inside, compress at another ratio, in this thread alone; None is the ratio there is.

        Memories that exist are read and recalled at their own ratio, inside and outside. A ratio that another thread
        sets meanwhile changes nothing inside. The decoder of another ratio is in the mode (training or not) that the
        model's own has at the beginning.

        Raises:
            ConfigError: The decoder cannot work at that ratio.
        """
        with having((self, self.compressor), self._made_for(ratio)):
            yield

    @contextmanager
    def at_ratio_of(self, memory: Memory) -> Iterator[None]:
        """Inside, the model is at the ratio that a memory was written at; at its own where it cannot be.

        Then `check` refuses the memory and says why.

        Args:
            memory: The memory that is read or recalled.
        """
        try:
            made = self._made_for(getattr(memory, "ratio", None))
        except ConfigError:
            made = self._made_for(None)
        with having((self, self.compressor), made):
            yield

    def _made_for(self, ratio: int | None) -> PartsAtRatio:
        """What of the model goes with a ratio; None for that of now."""
        now = self._in_force
        if now is None:
            with RATIO_GUARD:
                # A codec is changed in place when the ratio is set, so that one's own is a copy.
                now = PartsAtRatio(self.compressor.ratio, self.decoder, self.codec.at(self.decoder))
        ratio = None if ratio is None else whole_setting(ratio, "ratio", 1)
        if ratio is None or ratio == now.ratio:
            return now
        decoder = now.decoder.at_ratio(ratio).train(now.decoder.training)
        return PartsAtRatio(ratio, decoder, now.codec.at(decoder))
