"""One level of a hierarchy."""

from __future__ import annotations

from dataclasses import dataclass

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.hierarchy.queries import QueryBuilder
from r3mem.hierarchy.segmenters import Segmenter
from r3mem.plain_data.components import Component


@dataclass(repr=False)
class Level(Component):
    """How segments of one level are cut, compressed and named.

    Attributes:
        name: What the level is called, such as ``paragraph``.
        segmenter: Where segments of this level are cut from those of the level above.
        tokens: Most tokens of a segment.
        ratio: Text tokens per virtual token; None is the compressor's own.
        query: Makes the texts that name a segment; None makes none.
    """

    name: str
    segmenter: Segmenter
    tokens: int
    ratio: int | None = None
    query: QueryBuilder | None = None

    def __post_init__(self) -> None:
        if whole_setting(self.tokens, f"level {self.name!r}: tokens") < 1:
            raise ConfigError(
                f"level {self.name!r}: tokens {self.tokens} is not possible; a segment holds at least one"
            )
        if self.ratio is not None and whole_setting(self.ratio, f"level {self.name!r}: ratio") < 1:
            raise ConfigError(f"level {self.name!r}: ratio {self.ratio} is not possible; it is at least 1")
