"""The ratio that a model has for one thread, while it has another for the others.

The ratio is part of a model: of its compressor, of its decoder and of what reads words off memories. A thread that
wants another for some calls is given all three of them anew; those of the model stay as they are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

#: Held while a model's own ratio is changed or looked at, so that nobody gets half of each.
RATIO_GUARD = threading.RLock()


@dataclass(frozen=True)
class AtRatio:
    """A ratio; a model adds what of it goes with its ratio.

    Attributes:
        ratio: Text tokens per virtual token.
    """

    ratio: int


#: By the identity of a model, and of its compressor.
_IN_FORCE: ContextVar[dict[int, AtRatio] | None] = ContextVar("r3mem_ratio_in_force", default=None)


def in_force(part: object) -> AtRatio | None:
    """What is in force for this thread; None where a model, or a compressor, is as it is for all.

    Args:
        part: The model, or its compressor.
    """
    found = _IN_FORCE.get()
    return None if found is None else found.get(id(part))


def put(parts: tuple[object, ...], value: AtRatio | None) -> None:
    """Put something in force for this thread, or nothing.

    Args:
        parts: The model and its compressor.
        value: What they have.
    """
    held = {key: found for key, found in (_IN_FORCE.get() or {}).items() if key not in map(id, parts)}
    if value is not None:
        held |= {id(part): value for part in parts}
    _IN_FORCE.set(held or None)


@contextmanager
def having(parts: tuple[object, ...], value: AtRatio) -> Iterator[None]:
    """Inside, something is in force for this thread.

    Args:
        parts: The model and its compressor.
        value: What they have.
    """
    before = in_force(parts[0])
    put(parts, value)
    try:
        yield
    finally:
        put(parts, before)
